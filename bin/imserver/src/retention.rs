//! `imserver retention`: what stays and why, what goes, what was deleted.

use instantmirror::bars::{Bar, Unit};
use instantmirror::config::ByteSize;
use instantmirror::core::RepoName;
use instantmirror::core::retention::{RetentionPlan, Verdict};
use instantmirror::master::{CleanUpOptions, CleanedUp};
use instantmirror::text::Count;
use instantmirror::{Master, MasterError, daemon};
use serde_json::{Value, json};

/// Applies the rules and cleans up; without `clean_up`, says what would go.
pub(crate) fn run(
    master: &Master,
    names: &[RepoName],
    clean_up: Option<CleanUpOptions>,
    json: bool,
) -> anyhow::Result<()> {
    let mut plans = Vec::new();
    for name in names {
        let plan = match clean_up {
            Some(_) => master.apply_retention(name),
            None => master.retention_plan(name),
        };
        match plan {
            Ok(plan) => plans.push((name, plan)),
            Err(MasterError::NeverPublished { .. }) if names.len() > 1 => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !json {
        plans
            .iter()
            .for_each(|(name, plan)| show(name, plan, clean_up.is_none()));
    }
    let done = clean_up.map(|options| deleting(master, options)).transpose()?;
    if json {
        let shown: Vec<Value> = plans.iter().map(|(name, plan)| as_json(name, plan)).collect();
        println!(
            "{:#}",
            json!({ "repositories": shown, "deleted": done.as_ref().map(deleted) })
        );
    } else if let Some(done) = done {
        println!("{}", sentence(&done));
    }
    Ok(())
}

/// Cleans up, and shows how far that is.
fn deleting(master: &Master, options: CleanUpOptions) -> Result<CleanedUp, MasterError> {
    master.clean_up_with(options, &Bar::new("clean-up", Unit::Objects))
}

/// What every publish ends with. The publish itself is done: what fails here is said, and tried again by the next one.
pub(crate) fn after_publish(master: &Master, names: &[RepoName]) {
    for name in names {
        match master.apply_retention(name) {
            Ok(_) | Err(MasterError::NeverPublished { .. }) => {}
            Err(error) => eprintln!(
                "imserver: {name}: retention was not applied: {}",
                daemon::explain(&error)
            ),
        }
    }
    match deleting(master, CleanUpOptions::default()) {
        Ok(done)
            if done
                == CleanedUp {
                    waiting: done.waiting,
                    ..CleanedUp::default()
                } => {}
        Ok(done) => println!("{}", sentence(&done)),
        Err(error) => eprintln!(
            "imserver: expired snapshots were not deleted: {}",
            daemon::explain(&error)
        ),
    }
}

fn show(name: &RepoName, plan: &RetentionPlan, dry_run: bool) {
    let (all, go) = (plan.verdicts().len(), plan.expired().count());
    let verb = if dry_run { "would go" } else { "went" };
    println!("{name}: {}, {go} {verb}", Count::of(all, "snapshot"));
    for verdict in plan.verdicts() {
        let released = verdict
            .released
            .map_or_else(|| "not released".to_owned(), |time| time.to_string());
        let ahead = if verdict.is_dated_ahead {
            " (its own date lies ahead of the clock)"
        } else {
            ""
        };
        println!("  {}  {released:<24}  {}{ahead}", verdict.id, fate(verdict));
    }
}

fn fate(verdict: &Verdict) -> String {
    let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
    match (verdict.over_limit, verdict.is_kept()) {
        (true, _) => format!("GOES   max_bytes is reached (else kept: {})", reasons.join(", ")),
        (false, true) => format!("stays  {}", reasons.join(", ")),
        (false, false) => "GOES   no rule keeps it".to_owned(),
    }
}

fn as_json(name: &RepoName, plan: &RetentionPlan) -> Value {
    let verdict = |verdict: &Verdict| {
        let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
        json!({
            "snapshot": verdict.id,
            "released": verdict.released,
            "dated_ahead": verdict.is_dated_ahead,
            "kept": verdict.is_kept(),
            "reasons": reasons,
            "over_limit": verdict.over_limit,
        })
    };
    json!({ "repository": name, "snapshots": plan.verdicts().iter().map(verdict).collect::<Vec<_>>() })
}

fn deleted(done: &CleanedUp) -> Value {
    json!({
        "snapshots": done.snapshots,
        "objects": done.objects,
        "bytes": done.bytes,
        "waiting": done.waiting,
    })
}

fn sentence(done: &CleanedUp) -> String {
    let size = ByteSize(done.bytes);
    let (objects, snapshots) = (Count(done.objects, "object"), Count(done.snapshots, "expired snapshot"));
    let mut text = format!("deleted {objects} ({size}) of {snapshots}");
    if done.waiting > 0 {
        let verb = if done.waiting == 1 { "waits" } else { "wait" };
        text += &format!("; {} more {verb} for delete_after", done.waiting);
    }
    text
}
