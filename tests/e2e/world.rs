//! A master and a node as an operator would run them, on free ports and temporary storage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use instantmirror_testkit::command::{Finished, clean_command, run, run_any};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{Daemon, TestDir, binary, poll};

/// How long anything may take before a test fails. Nothing here waits longer than it must.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A master's files, and `imserver serve` while it runs.
pub(crate) struct Master {
    pub(crate) config: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) key: String,
    address: String,
    daemon: Option<Daemon>,
    runs: u32,
}

impl Master {
    /// Configures and initialises a master of these repositories; it does not serve yet.
    pub(crate) fn new(dir: &TestDir, repositories: &[(&str, &Path)]) -> Self {
        Self::with_options(dir, repositories, "")
    }

    /// `options` is added to every repository.
    pub(crate) fn with_options(dir: &TestDir, repositories: &[(&str, &Path)], options: &str) -> Self {
        let dir = dir.folder("master").unwrap();
        let config = dir.join("imserver.toml");
        let mut text = format!(
            "[store]\ndir = {:?}\n[http]\nlisten = [\"127.0.0.1:0\"]\n[log]\nlevel = \"debug\"\n",
            dir.join("store")
        );
        for (name, source) in repositories {
            text += &format!("[[repository]]\nname = {name:?}\nsource = {source:?}\n{options}\n");
        }
        std::fs::write(&config, text).unwrap();
        let mut master = Self {
            config,
            dir,
            key: String::new(),
            address: "127.0.0.1:0".to_owned(),
            daemon: None,
            runs: 0,
        };
        let said = master.run(&["init"]).text();
        master.key = said
            .split('"')
            .find(|part| part.starts_with("ed25519:"))
            .expect("init prints the key")
            .to_owned();
        master
    }

    /// Adds sections to the configuration file.
    pub(crate) fn configure(&self, sections: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        std::fs::write(&self.config, format!("{text}\n{sections}\n")).unwrap();
    }

    /// Ids of the live snapshots, oldest first.
    pub(crate) fn live(&self, repository: &str) -> Vec<String> {
        let listed = self.run(&["snapshot", "list", repository, "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        let id = |row: &serde_json::Value| row["live"]["id"].as_str().unwrap().to_owned();
        rows.as_array().unwrap().iter().map(id).collect()
    }

    /// Names of the objects in the store, in order.
    pub(crate) fn objects(&self) -> Vec<String> {
        let dirs = std::fs::read_dir(self.dir.join("store/objects")).unwrap();
        let files = dirs.flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap());
        let mut names: Vec<_> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = clean_command(binary("imserver").unwrap().to_str().unwrap());
        command.arg("--config").arg(&self.config).args(arguments);
        command
    }

    /// Runs `imserver` with these arguments; it must succeed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        run(&mut self.command(arguments), LIMIT).unwrap()
    }

    /// Starts `imserver` with these arguments, for a while.
    pub(crate) fn start(&self, arguments: &[&str], name: &str) -> Daemon {
        let log = self.dir.join(format!("{name}.log"));
        Daemon::start("imserver", &mut self.command(arguments), &log).unwrap()
    }

    /// Runs `imserver` with these arguments; it must fail. Returns its exit code and what it said.
    pub(crate) fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let finished = run_any(&mut self.command(arguments), LIMIT).unwrap();
        assert!(
            !finished.status.success(),
            "it should have failed:\n{}",
            finished.transcript()
        );
        (finished.status.code().unwrap(), finished.transcript())
    }

    /// Publishes, and returns the id of the current snapshot.
    pub(crate) fn publish(&self, repository: &str) -> String {
        self.run(&["publish", repository]);
        let shown = self.run(&["snapshot", "show", repository, "--json"]);
        let record: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        record["id"].as_str().unwrap().to_owned()
    }

    /// Starts `imserver serve`, at the same address as before if it ran already.
    pub(crate) fn serve(&mut self) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        // Others, of peers say, stay any free ones.
        let listening = |text: &str, address: &str| {
            text.replace(
                "[http]\nlisten = [\"127.0.0.1:0\"]",
                &format!("[http]\nlisten = [{address:?}]"),
            )
        };
        std::fs::write(&self.config, listening(&text, &self.address)).unwrap();
        self.runs += 1;
        let log = self.dir.join(format!("serve-{}.log", self.runs));
        let mut daemon = Daemon::start("imserver", &mut self.command(&["serve"]), &log).unwrap();
        self.address = address(&mut daemon);
        let text = std::fs::read_to_string(&self.config).unwrap();
        std::fs::write(&self.config, listening(&text, &self.address)).unwrap();
        self.daemon = Some(daemon);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the master serves")
    }

    /// Ends it as an operator would, or as a power cut would.
    pub(crate) fn stop(&mut self, kill: bool) {
        let mut daemon = self.daemon.take().expect("the master serves");
        if kill {
            daemon.kill9().unwrap();
        } else {
            assert!(daemon.terminate(LIMIT).unwrap().success());
        }
    }

    /// Where an object lies in the store.
    pub(crate) fn object_file(&self, content: &[u8]) -> PathBuf {
        let id = instantmirror::core::ObjectId::of(content).to_string();
        self.dir.join("store/objects").join(&id[..2]).join(id)
    }
}

/// The address that a daemon prints.
fn address(daemon: &mut Daemon) -> String {
    let line = daemon.wait_for_line("serving on http://", LIMIT).unwrap();
    line.split("http://")
        .nth(1)
        .unwrap()
        .trim()
        .trim_end_matches('/')
        .to_owned()
}

/// A node's files, and `imnode run` while it runs.
pub(crate) struct Node {
    pub(crate) config: PathBuf,
    pub(crate) dir: PathBuf,
    address: String,
    daemon: Option<Daemon>,
    /// How often it was started: every run has a log of its own.
    runs: u32,
}

impl Node {
    /// Configures and starts a node of these repositories.
    pub(crate) fn start(dir: &TestDir, master: &Master, repositories: &[&str]) -> Self {
        let mut node = Self::configure(dir, &master.url(), &master.key, repositories, "10 GiB");
        node.run();
        node
    }

    /// Configures a node; it does not run yet.
    pub(crate) fn configure(dir: &TestDir, master: &str, key: &str, repositories: &[&str], max_size: &str) -> Self {
        let dir = dir.folder("node").unwrap();
        let config = dir.join("imnode.toml");
        let mut text = format!(
            "[cache]\ndir = {:?}\nmax_size = {max_size:?}\n[http]\nlisten = [\"127.0.0.1:0\"]\n[log]\nlevel = \"debug\"\n",
            dir.join("cache")
        );
        for name in repositories {
            text += &format!(
                "[[repository]]\nname = {name:?}\nmaster = {master:?}\ntrust = [{key:?}]\n\
                 mounts = [{{ path = \"/pub/{name}\", view = \"current\" }}]\n"
            );
        }
        std::fs::write(&config, text).unwrap();
        Self {
            config,
            dir,
            address: String::new(),
            daemon: None,
            runs: 0,
        }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = clean_command(binary("imnode").unwrap().to_str().unwrap());
        command.arg("--config").arg(&self.config).args(arguments);
        command
    }

    /// Starts `imnode run`.
    pub(crate) fn run(&mut self) {
        self.run_with(&[]);
    }

    /// The same with variables in its environment.
    pub(crate) fn run_with(&mut self, environment: &[(&str, &str)]) {
        self.runs += 1;
        let log = self.dir.join(format!("run-{}.log", self.runs));
        let mut command = self.command(&["run"]);
        command.envs(environment.iter().copied());
        let mut daemon = Daemon::start("imnode", &mut command, &log).unwrap();
        self.address = address(&mut daemon);
        self.daemon = Some(daemon);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the node runs")
    }

    /// What it has logged since it was started.
    pub(crate) fn daemon_log(&self) -> String {
        self.daemon.as_ref().map_or_else(String::new, Daemon::log)
    }

    pub(crate) fn stop(&mut self, kill: bool) {
        let mut daemon = self.daemon.take().expect("the node runs");
        if kill {
            daemon.kill9().unwrap();
        } else {
            assert!(daemon.terminate(LIMIT).unwrap().success());
        }
    }

    /// Runs `imnode` with these arguments; it must succeed. Returns what it said.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments), LIMIT).unwrap().text()
    }

    /// Runs `imnode` with these arguments; it must fail. Returns its exit code and what it said.
    pub(crate) fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let finished = run_any(&mut self.command(arguments), LIMIT).unwrap();
        assert!(
            !finished.status.success(),
            "it should have failed:\n{}",
            finished.transcript()
        );
        (finished.status.code().unwrap(), finished.transcript())
    }

    /// `imnode status --json`.
    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&run(&mut self.command(&["status", "--json"]), LIMIT).unwrap().stdout).unwrap()
    }

    /// `imnode status`.
    pub(crate) fn status_text(&self) -> String {
        run(&mut self.command(&["status"]), LIMIT).unwrap().text()
    }

    /// Waits until `current` of a repository is this snapshot.
    pub(crate) fn wait_for(&self, repository: &str, snapshot: &str) {
        let url = format!("{}/{repository}/snap/current/", self.url());
        let shown = poll(LIMIT, || {
            let answer = http::get(&url).ok()?;
            (answer.header("instantmirror-snapshot") == Some(snapshot)).then_some(())
        });
        shown.unwrap_or_else(|| panic!("snapshot {snapshot} does not appear:\n{}", self.status_text()));
    }

    /// GETs a path; the answer must be 200.
    pub(crate) fn get(&self, path: &str) -> Vec<u8> {
        let answer = http::get(&format!("{}{path}", self.url())).unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.body
    }
}

/// A mounted tmpfs, unmounted at the end whatever happens.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn tmpfs(at: &Path, options: &str) -> Self {
        let done = clean_command("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        assert!(done.success(), "mounting a tmpfs needs root");
        Self(at.to_path_buf())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: daemons that still have files open end right after.
        let _ = clean_command("umount").arg("--lazy").arg(&self.0).status();
    }
}
