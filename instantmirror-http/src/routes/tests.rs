//! Which route a path finds, which tables are refused, what lists look like.

use http::Response;

use super::pattern::{Pattern, Relation};
use super::*;
use crate::view::mounts::{Mount, Mounts};

fn entry(method: Method, path: &'static str) -> RouteEntry {
    RouteEntry::new(method, path, Access::Public, path)
}

fn table(paths: &[&'static str]) -> Result<Table<()>, RouteError> {
    Table::build(paths.iter().map(|path| (entry(Method::GET, path), ())))
}

#[test]
fn the_most_specific_pattern_is_found_whatever_the_order() {
    let mut paths = vec![
        "/a",
        "/a/b",
        "/a/{x}",
        "/a/{x}/c",
        "/a/b/{y}/d",
        "/a/{*rest}",
        "/files/{*path}",
    ];
    for _ in 0..paths.len() {
        paths.rotate_left(1);
        let table = table(&paths).unwrap();
        for (path, found) in [
            ("a", Some(("/a", vec![]))),
            ("a/b", Some(("/a/b", vec![]))),
            ("a/e", Some(("/a/{x}", vec!["e"]))),
            ("a/e/c", Some(("/a/{x}/c", vec!["e"]))),
            ("a/b/c", Some(("/a/{x}/c", vec!["b"]))),
            ("a/b/c/d", Some(("/a/b/{y}/d", vec!["c"]))),
            ("a/b/c/e", Some(("/a/{*rest}", vec!["b/c/e"]))),
            ("a/x/y/z", Some(("/a/{*rest}", vec!["x/y/z"]))),
            ("files/x y/é", Some(("/files/{*path}", vec!["x y/é"]))),
            ("files", None),
            ("A", None),
            ("ab", None),
            ("", None),
            ("b", None),
        ] {
            let said = table.find(path).map(|found| {
                let row = found.row(&Method::GET).unwrap();
                (&*row.entry.path, found.values().to_vec())
            });
            assert_eq!(said, found, "{path}");
        }
    }
}

#[test]
fn parameters_have_the_names_of_their_own_route() {
    let routes = [
        (entry(Method::GET, "/{repository}/{tag}"), ()),
        (entry(Method::POST, "/{name}/{file}"), ()),
    ];
    let table = Table::build(routes).unwrap();
    let found = table.find("debian/stable").unwrap();
    for (method, name) in [(Method::GET, "tag"), (Method::POST, "file")] {
        let named = found.parameters(found.row(&method).unwrap());
        assert_eq!(named[1], (name.into(), "stable".into()));
    }
    assert_eq!(found.allow(), "GET, HEAD, POST, OPTIONS");
    assert!(found.row(&Method::PUT).is_none() && found.row(&Method::HEAD).is_some());
}

#[test]
fn patterns_are_related_as_the_paths_that_they_match() {
    use Relation::{Ambiguous, Disjoint, Ordered, Same};
    for (ours, theirs, relation) in [
        ("/a", "/a", Same),
        ("/a", "/b", Disjoint),
        ("/a", "/a/b", Disjoint),
        ("/a/{x}", "/a/{y}", Same),
        ("/a/{x}", "/a/b", Ordered),
        ("/a/{x}", "/{y}/b", Ambiguous),
        ("/a/{x}/c", "/{y}/b/d", Disjoint),
        ("/a/{*x}", "/a/{*y}", Same),
        ("/a/{*x}", "/a", Disjoint),
        ("/a/{*x}", "/a/b", Ordered),
        ("/a/{*x}", "/a/b/{*y}", Ordered),
        ("/a/{*x}", "/{y}/b", Ambiguous),
        ("/a/{*x}", "/{y}", Disjoint),
        ("/{*x}", "/{y}/{z}", Ordered),
        ("/{x}/b/{y}", "/a/{*z}", Ambiguous),
    ] {
        let [one, other] = [ours, theirs].map(|text| Pattern::parse(text).unwrap());
        assert_eq!(one.relation(&other), relation, "{ours} {theirs}");
        assert_eq!(other.relation(&one), relation, "{theirs} {ours}");
    }
}

#[test]
fn bad_patterns_are_refused_with_a_reason() {
    for (path, said) in [
        ("a", "slash"),
        ("", "slash"),
        ("/", "root"),
        ("/a//b", "components"),
        ("/a/", "components"),
        ("/a/../b", "components"),
        ("/a/./b", "components"),
        ("/a/x{y}", "whole component"),
        ("/a/{y", "whole component"),
        ("/a/{}", "name"),
        ("/a/{*}", "name"),
        ("/a/{X}", "name"),
        ("/a/{x}/{x}", "same name"),
        ("/a/{*x}/b", "behind"),
        ("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}", "8 parameters"),
    ] {
        let error = table(&[path]).unwrap_err();
        assert!(matches!(error, RouteError::Pattern { .. }), "{error}");
        assert!(error.to_string().contains(said), "{path}: {error}");
    }
    assert!(table(&["/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}"]).is_ok());
}

fn nothing() -> impl Fn(RouteRequest) -> std::future::Ready<Response<Bytes>> + Send + Sync + 'static {
    |_| std::future::ready(Response::new(Bytes::new()))
}

#[test]
fn a_table_with_contradictions_is_refused_and_both_routes_are_named() {
    let routes = |first: &'static str, second: &'static str| {
        let routes = Routes::new().get(first, Access::Public, "Is the first", nothing());
        routes.merge(Routes::new().get(second, Access::Nodes, "Is the second", nothing()))
    };
    let said = |first, second| {
        let error = routes(first, second).build().unwrap_err();
        let text = error.to_string();
        for named in [first, second, "Is the first", "Is the second"] {
            assert!(text.contains(named), "{named}: {text}");
        }
        error
    };
    assert!(matches!(said("/x", "/x"), RouteError::Duplicate { .. }));
    assert!(matches!(said("/x/{a}", "/x/{b}"), RouteError::Duplicate { .. }));
    assert!(matches!(said("/x/{a}", "/{b}/y"), RouteError::Ambiguous { .. }));
    assert!(routes("/x/{a}", "/x/y").build().is_ok());
    let both = Routes::new().get("/x/{a}", Access::Public, "", nothing());
    assert!(both.post("/x/{b}", Access::Public, "", nothing()).build().is_ok());
    // Whatever the methods: a path would not say which routes it has.
    let crossing = Routes::new().get("/x/{a}", Access::Public, "", nothing());
    let crossing = crossing.post("/{b}/y", Access::Public, "", nothing()).build();
    assert!(matches!(crossing, Err(RouteError::Ambiguous { .. })));
    for (path, prefix) in [
        ("/.im/v1", ".im/v1"),
        ("/.im/v1/{x}", ".im/v1"),
        ("/.im/webseed/x", ".im/webseed"),
    ] {
        let error = Routes::new().get(path, Access::Public, "", nothing()).build().err();
        assert!(matches!(error, Some(RouteError::Reserved { prefix: said, .. }) if said == prefix));
    }
    assert!(
        Routes::new()
            .get("/.im/v10", Access::Public, "", nothing())
            .build()
            .is_ok()
    );
}

#[tokio::test]
async fn handlers_find_what_they_share() {
    let counted = Routes::new().get("/{a}", Access::Public, "", |request: RouteRequest<u32>| async move {
        Response::new(Bytes::from(format!("{} {}", request.state, request.parameter("a"))))
    });
    let unbound = counted.build().unwrap();
    assert_eq!(
        unbound.list().iter().count(),
        1,
        "a table is listed without what it needs"
    );
    let none = Routes::new().get("/a/{b}", Access::Public, "", |_: RouteRequest<&'static str>| async {
        None
    });
    let counted = Routes::new().get("/{a}", Access::Public, "", |request: RouteRequest<u32>| async move {
        Response::new(Bytes::from(format!("{} {}", request.state, request.parameter("a"))))
    });
    let table = counted.with_state(7).merge(none.with_state("")).build().unwrap();
    let (uri, headers) = (http::Uri::from_static("/"), http::HeaderMap::new());
    let request = Request::new(&Method::GET, &uri, &headers);
    let ask = |path: &'static str| {
        let found = table.find(path, &Client::default()).unwrap();
        let request = request.clone();
        async move {
            found
                .answer(&request, path, Bytes::new())
                .await
                .map(Response::into_body)
        }
    };
    assert_eq!(ask("x").await, Some(Bytes::from("7 x")));
    assert_eq!(ask("a/b").await, None);
}

#[test]
fn routes_of_the_control_socket_are_hidden_from_the_net() {
    let table = Routes::new()
        .get("/a", Access::Control, "", nothing())
        .get("/b", Access::Public, "", nothing())
        .post("/b", Access::Control, "", nothing())
        .get("/c/{name}", Access::Public, "", nothing())
        .get("/c/secret", Access::Control, "", nothing())
        .build()
        .unwrap();
    let allowed = |path, client: &Client| table.find(path, client).map(|found| found.allow());
    let near = Client::at_unix_socket();
    let mut local = Client::default();
    local.is_local = true;
    let mut far = local;
    far.address = Some([127, 0, 0, 1].into());
    assert_eq!(
        allowed("a", &Client::default()),
        None,
        "a client of which nothing is known"
    );
    assert_eq!(allowed("a", &near), Some("GET, HEAD, OPTIONS"));
    assert_eq!(allowed("a", &local), None, "it is here, and at no socket that is known");
    assert_eq!(allowed("a", &far), None);
    assert_eq!(allowed("b", &near), Some("GET, HEAD, POST, OPTIONS"));
    assert_eq!(allowed("b", &far), Some("GET, HEAD, OPTIONS"));
    let name = |client| table.find("c/secret", client).map(|found| found.values().to_vec());
    assert_eq!(name(&near), Some(vec![]));
    assert_eq!(name(&far), Some(vec!["secret"]), "a hidden route hid the one behind it");
}

#[test]
fn lists_stand_in_columns() {
    let table = Routes::new()
        .get("/a", Access::Public, "Shows a", nothing())
        .post("/long/{name}", Access::Control, "Takes a name", nothing())
        .build()
        .unwrap();
    let expected = "GET   /a            everybody       Shows a\n\
                    POST  /long/{name}  control socket  Takes a name\n";
    assert_eq!(table.to_string(), expected);
    let json = table.list().to_json();
    let second = serde_json::json!({
        "method": "POST", "path": "/long/{name}", "access": "control", "purpose": "Takes a name",
    });
    assert_eq!(json[1], second);
    assert_eq!(
        table.list().on_control_socket().iter().next().unwrap().access,
        Access::Control
    );
    assert_eq!(RouteTable::<()>::default().to_string(), "");
}

#[test]
fn trees_are_listed_where_they_are_published() {
    let mount = |host: Option<&str>, path: &str| Mount {
        host: host.map(|host| host.parse().unwrap()),
        path: instantmirror_core::RepoPath::new(path).unwrap(),
        repository: "debian".parse().unwrap(),
        view: instantmirror_core::view::View::Current,
        index: false,
    };
    let mounts = Mounts::new(vec![mount(None, "pub/debian"), mount(Some("deb.example.org"), "")]).unwrap();
    let paths = |repositories: &[_], mounts: &Mounts, own_files| -> Vec<String> {
        let list = published_trees(repositories, mounts, own_files);
        list.iter()
            .map(|entry| format!("{} {}", entry.path, entry.purpose))
            .collect()
    };
    let expected = [
        "/ Lists what is published",
        "/debian/{*path} Shows the snapshots of 'debian'",
        "/pub/debian/{*path} Shows current of 'debian'",
        "/{*path} Shows current of 'debian' on host deb.example.org",
        "/.im/webseed/{*path} Serves web seeds of torrents (BEP 19)",
        "/{*path} Shows a file of the operator's own where nothing else is",
    ];
    assert_eq!(paths(&["debian".parse().unwrap()], &mounts, true), expected);
    assert_eq!(paths(&[], &Mounts::default(), false), ["/ Lists what is published"]);
}
