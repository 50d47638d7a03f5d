//! Random changes to a tree: a check of the changes finds what a full one finds.

use proptest::prelude::*;

use super::*;

/// A change to a tree: which file, and what becomes of it.
#[derive(Debug, Clone)]
enum Change {
    Remove(usize),
    Alter(usize, u8),
    Add(usize),
    /// Metadata is made anew for what is there.
    Mend,
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..40_usize).prop_map(Change::Remove),
        (0..40_usize, any::<u8>()).prop_map(|(which, with)| Change::Alter(which, with)),
        (0..5_usize).prop_map(Change::Add),
        Just(Change::Mend),
    ]
}

fn apply(tree: &mut Memory, change: &Change) {
    let paths: Vec<String> = tree.files.keys().cloned().collect();
    match change {
        Change::Remove(which) if paths.len() > 1 => _ = tree.files.remove(&paths[which % paths.len()]),
        Change::Alter(which, with) if !paths.is_empty() => {
            let content = tree.files.get_mut(&paths[which % paths.len()]).unwrap();
            let at = usize::from(*with) % content.len().max(1);
            content[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1);
        }
        Change::Add(which) => tree.put(&format!("pool/new{which}.deb"), "new"),
        Change::Mend if tree.files.contains_key(&format!("{BINARY}/Packages.bz2")) => {
            let debs: Vec<&String> = paths.iter().filter(|path| path.ends_with(".deb")).collect();
            let packages: String = debs.iter().map(|path| stanza(tree, "", path)).collect();
            tree.put(&format!("{BINARY}/Packages"), packages);
            let text = release(tree, "dists/stable/", &["main/binary-amd64/Packages"]);
            tree.put("dists/stable/Release", text);
            tree.files.remove("dists/stable/InRelease");
            for name in ["Packages.gz", "Packages.bz2"] {
                tree.files.remove(&format!("{BINARY}/{name}"));
            }
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn a_check_of_the_changes_finds_what_a_full_one_finds(changes in prop::collection::vec(any_change(), 1..6)) {
        let mut before = debian_tree();
        let rpms = yum_tree();
        before.files.extend(rpms.files);
        let mut known = before.known();
        let mut tree = before.clone();
        for change in &changes {
            apply(&mut tree, change);
            let full = tree.check();
            let since = tree.since(&before, &known);
            prop_assert_eq!(full.problems.to_string(), since.problems.to_string(), "{:?}", changes);
            if full.problems.is_empty() {
                known = Known { root: known.root, found: since.found };
                before = tree.clone();
            }
        }
    }
}
