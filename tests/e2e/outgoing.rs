//! How a tracker reaches its masters: with the usual certificate of one machine, by a proxy, and sent on.

use std::process::Command;

use instantmirror_testkit::command::{clean_command, run, run_any};
use instantmirror_testkit::process::{Daemon, TestDir, binary, free_port, poll};

use crate::between::{Nginx, squid};
use crate::tls::certify;
use crate::world::LIMIT;

/// What the tracker's command line says.
fn imtracker(dir: &TestDir, arguments: &[&str]) -> Command {
    let mut command = clean_command(binary("imtracker").unwrap().to_str().unwrap());
    command
        .arg("--config")
        .arg(dir.path().join("imtracker.toml"))
        .args(arguments);
    command
}

#[test]
fn a_tracker_asks_masters_as_it_is_told_and_says_when_they_name_nothing() {
    let dir = TestDir::new("e2e-outgoing").unwrap();
    let keys = dir.folder("keys").unwrap();
    let (certificate, key) = (keys.join("own.pem"), keys.join("own.key"));
    certify(&certificate, &key);
    let [safe, moved, proxy] = [(); 3].map(|()| free_port().unwrap());
    let hash = "0123456789abcdef0123456789abcdef01234567";
    let servers = format!(
        "server {{ listen 127.0.0.1:{safe} ssl; ssl_certificate {certificate:?}; ssl_certificate_key {key:?};\n\
         location = /.im/v1/r/swarm {{ return 200 '{{\"info_hash\":\"{hash}\",\"ports\":[]}}'; }}\n\
         location / {{ return 404; }} }}\n\
         server {{ listen 127.0.0.1:{moved}; location / {{ return 301 https://127.0.0.1:{safe}$request_uri; }} }}\n"
    );
    let _nginx = Nginx::start(&dir.folder("nginx").unwrap(), safe, &servers);
    let (_squid, _) = squid(&dir, proxy);
    let masters = [
        format!("https://127.0.0.1:{safe}/r"),
        format!("http://127.0.0.1:{moved}/r"),
    ];
    let configure = |outgoing: &str| {
        let text = format!(
            "[torrents]\nmasters = {masters:?}\nrescan = \"1 s\"\n[http]\nlisten = [\"127.0.0.1:0\"]\n[outgoing]\n{outgoing}\n\
             [control]\nsocket = {:?}\n",
            dir.path().join("tracker.sock")
        );
        std::fs::write(dir.path().join("imtracker.toml"), text).unwrap();
    };
    // What every client can do with the certificate by itself.
    let mut curl = clean_command("curl");
    curl.args(["-sS", "--fail", "--cacert"])
        .arg(&certificate)
        .arg(format!("https://127.0.0.1:{safe}/.im/v1/r/swarm"));
    assert!(run_any(&mut curl, LIMIT).unwrap().text().contains(hash));

    configure("");
    let log = dir.path().join("tracker.log");
    let mut daemon = Daemon::start("imtracker", &mut imtracker(&dir, &["run"]), &log).unwrap();
    daemon.wait_for_line("announce at", LIMIT).unwrap();
    let status = || {
        let said = run(&mut imtracker(&dir, &["status", "--json"]), LIMIT).unwrap();
        serde_json::from_slice::<serde_json::Value>(&said.stdout).unwrap()
    };
    // Waits until both masters are in such a trouble, in the order of their URLs.
    let wait_for = |troubles: [Option<&str>; 2]| {
        let is_so = || {
            let status = status();
            let masters = status["masters"].as_array()?;
            let is_it = |(master, ought): (&serde_json::Value, &Option<&str>)| match ought {
                Some(text) => master["trouble"].as_str().is_some_and(|said| said.contains(text)),
                None => master["trouble"].is_null() && master["swarms"] == 1,
            };
            (masters.len() == 2 && masters.iter().zip(&troubles).all(is_it)).then_some(())
        };
        assert!(poll(LIMIT, is_so).is_some(), "{troubles:?}: {}", status());
    };
    let place = format!("(sent on to https://127.0.0.1:{safe}/)");
    wait_for([Some(&place), Some("its certificate is none of a server")]);
    let text = run(&mut imtracker(&dir, &["status"]), LIMIT).unwrap().text();
    assert!(text.contains(&format!("master {}: TROUBLE: ", masters[0])), "{text}");

    configure(&format!("ca_file = {certificate:?}"));
    let said = run(&mut imtracker(&dir, &["reload"]), LIMIT).unwrap().text();
    assert!(said.contains("changed: [outgoing]"), "{said}");
    wait_for([None, None]);
    assert_eq!(status()["torrents"]["allowed"], 1);

    // A proxy that does not know us is what is in trouble, and not the masters. What was named stays served.
    configure(&format!(
        "ca_file = {certificate:?}\nproxy = \"http://me:Sesame-1@127.0.0.1:{proxy}\""
    ));
    run(&mut imtracker(&dir, &["reload"]), LIMIT).unwrap();
    wait_for([
        Some("the proxy answers 407"),
        Some(&format!("the proxy http://127.0.0.1:{proxy}/ makes no way there")),
    ]);
    assert_eq!(status()["torrents"]["allowed"], 1);
    configure(&format!(
        "ca_file = {certificate:?}\nproxy = \"http://mirror:Sesame-9@127.0.0.1:{proxy}\""
    ));
    run(&mut imtracker(&dir, &["reload"]), LIMIT).unwrap();
    wait_for([None, None]);

    // Each trouble was told once, however often they were asked, and by nobody else.
    let log = daemon.log();
    for master in &masters {
        let told = |text: &str| {
            log.lines()
                .filter(|line| line.contains(&format!("{master} {text}")))
                .count()
        };
        assert_eq!(
            (told("names no swarms"), told("names its swarms again")),
            (2, 2),
            "{log}"
        );
    }
    assert!(!log.contains("failed to verify") && !log.contains("Sesame"), "{log}");
    assert!(daemon.terminate(LIMIT).unwrap().success());
}
