//! A master and a mirror of it pass core's suites of published trees, as whoever embeds them sees them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use instantmirror::config::{NodeConfig, ServerConfig};
use instantmirror::core::RepoName;
use instantmirror::core::conformance::Subject;
use instantmirror::core::conformance::peer_transport::REPOSITORY;
use instantmirror::core::traits::{Catalogs, ObjectReader, ObjectSource, ReadIntent};
use instantmirror::core::{FetchError, FileMeta};
use instantmirror::master::{MasterPublication, NoProgress};
use instantmirror::node::NodePublication;
use instantmirror::{Master, MasterServer, Node, PublishOptions, Published};
use tempfile::TempDir;
use tokio::runtime::{Builder, EnterGuard, Runtime};

const LIMIT: Duration = Duration::from_secs(60);

/// A runtime that is there to the end.
fn runtime() -> &'static Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    Box::leak(Box::new(runtime.unwrap()))
}

fn quoted(path: &Path) -> String {
    serde_json::to_string(&path.to_string_lossy()).unwrap()
}

/// A master that has published these files.
fn publish(dir: &Path, files: &[(&str, Bytes)]) -> (Master, Published) {
    let source = dir.join("source");
    std::fs::create_dir(&source).unwrap();
    for (path, data) in files {
        let path = source.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }
    let text = format!(
        "[store]\ndir = {}\n[http]\nlisten = [\"127.0.0.1:0\"]\n[peers]\nlisten = [\"127.0.0.1:0\"]\n\
         [[repository]]\nname = \"{REPOSITORY}\"\nsource = {}\n",
        quoted(&dir.join("master")),
        quoted(&source),
    );
    let config = ServerConfig::parse(Path::new("(built in)"), &text).unwrap();
    Master::init(&config).unwrap();
    let master = Master::open(config).unwrap();
    let mut options = PublishOptions::default();
    options.allow_empty = true;
    let published = master
        .publish(&REPOSITORY.parse().unwrap(), &options, &NoProgress)
        .unwrap();
    (master, published)
}

fn master(files: &[(&str, Bytes)]) -> Subject<MasterPublication> {
    let (dir, runtime) = (TempDir::new().unwrap(), runtime());
    let (master, _) = publish(dir.path(), files);
    let shown = runtime.block_on(MasterPublication::new(master));
    Subject::on(shown, (dir, runtime.enter()))
}

/// What a mirror stands on: dropped after it.
#[derive(Debug)]
struct Ground {
    _inside: EnterGuard<'static>,
    _dir: TempDir,
}

fn mirror(files: &[(&str, Bytes)]) -> Subject<NodePublication> {
    let (dir, runtime) = (TempDir::new().unwrap(), runtime());
    let (master, published) = publish(dir.path(), files);
    let inside = runtime.enter();
    let server = runtime.block_on(MasterServer::bind(master.clone())).unwrap();
    let text = format!(
        "[cache]\ndir = {}\nmax_size = \"1 GiB\"\n[http]\nlisten = [\"127.0.0.1:0\"]\n\
         [[repository]]\nname = \"{REPOSITORY}\"\nmaster = \"{}\"\ntrust = [\"{}\"]\n",
        quoted(&dir.path().join("node")),
        server.urls()[0],
        master.public_key(),
    );
    runtime.spawn(server.run(std::future::pending()));
    let config = NodeConfig::parse(Path::new("(built in)"), &text).unwrap();
    let node = runtime.block_on(Node::open(config)).unwrap();
    let following = node.clone();
    runtime.spawn(async move { following.follow().await });
    let Published::Snapshot(snapshot) = &published else {
        panic!("{published}")
    };
    let name: RepoName = REPOSITORY.parse().unwrap();
    let there = node.wait_until_current(&name, snapshot.snapshot.id);
    runtime
        .block_on(async { tokio::time::timeout(LIMIT, there).await })
        .unwrap();
    let shown = Arc::into_inner(node.publication()).unwrap();
    Subject::on(
        shown,
        Ground {
            _inside: inside,
            _dir: dir,
        },
    )
}

/// The content behind one of them.
#[derive(Debug)]
struct Content(Arc<dyn ObjectSource>);

#[async_trait::async_trait]
impl ObjectSource for Content {
    async fn open(
        &self,
        repository: &RepoName,
        file: &FileMeta,
        intent: ReadIntent,
    ) -> Result<Arc<dyn ObjectReader>, FetchError> {
        self.0.open(repository, file, intent).await
    }
}

fn content<C: Catalogs>(make: fn(&[(&str, Bytes)]) -> Subject<C>, objects: &[Bytes]) -> Subject<Content> {
    let names: Vec<String> = (0..objects.len()).map(|number| format!("file-{number}")).collect();
    let files: Vec<(&str, Bytes)> = names.iter().map(String::as_str).zip(objects.iter().cloned()).collect();
    let shown = make(&files);
    Subject::on(Content(shown.objects()), shown)
}

mod of_a_master {
    mod catalogs {
        instantmirror::core::catalogs_conformance!(super::super::master);
    }

    mod node_api {
        instantmirror::core::node_api_conformance!(super::super::master);
    }

    mod annotations {
        instantmirror::core::annotations_conformance!(super::super::master);
    }

    mod content {
        use bytes::Bytes;

        instantmirror::core::object_source_conformance!(|objects: &[Bytes]| {
            super::super::content(super::super::master, objects)
        });
    }
}

mod of_a_mirror {
    mod catalogs {
        instantmirror::core::catalogs_conformance!(super::super::mirror);
    }

    mod node_api {
        instantmirror::core::node_api_conformance!(super::super::mirror);
    }

    mod annotations {
        instantmirror::core::annotations_conformance!(super::super::mirror);
    }

    mod content {
        use bytes::Bytes;

        instantmirror::core::object_source_conformance!(|objects: &[Bytes]| {
            super::super::content(super::super::mirror, objects)
        });
    }
}
