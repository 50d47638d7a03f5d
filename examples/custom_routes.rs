//! Routes of one's own beside the files of a directory: a table says which there are, refuses two that contradict each
//! other, and answers. `Service::with_routes` serves it with whatever else there is.
//!
//! ```text
//! cargo run --example custom_routes
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::Response;
use instantmirror::core::memory::Nothing;
use instantmirror::httpd::{Access, OwnFiles, RouteError, RouteRequest, Routes, Server, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The state that the handlers share.
type Visits = Arc<AtomicU64>;

async fn hello(request: RouteRequest<Visits>) -> Response<Bytes> {
    request.state.fetch_add(1, Ordering::Relaxed);
    Response::new(format!("Hello, {}!", request.parameter("name")).into())
}

async fn visits(request: RouteRequest<Visits>) -> Response<Bytes> {
    Response::new(request.state.load(Ordering::Relaxed).to_string().into())
}

fn routes() -> Routes<Visits> {
    Routes::new().get("/hello/{name}", Access::Public, "Greets", hello).get(
        "/visits",
        Access::Public,
        "Counts the greetings",
        visits,
    )
}

/// Status line and content of an answer.
async fn ask(server: SocketAddr, request: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let head = format!("{request} HTTP/1.1\r\nHost: example\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, content) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.lines().next().unwrap_or_default();
    Ok(format!("{request}: {status}: {}", content.trim_end()))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let twice = routes().get("/hello/{who}", Access::Public, "Greets again", hello);
    if let Err(RouteError::Duplicate { first, second }) = twice.build() {
        println!("refused: {first} and {second}");
    }
    let table = routes().build()?;
    print!("{table}");
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("robots.txt"), "User-agent: *\n")?;
    let service = Service::new(Arc::new(Nothing))
        .with_own_files(OwnFiles::new(dir.path()))
        .with_routes(table.with_state(Visits::default()));
    let server = Server::bind("127.0.0.1:0".parse()?).await?;
    let address = server.addresses()[0];
    let running = server.serve(Arc::new(service), std::future::pending());
    let client = async {
        for request in ["GET /hello/world", "GET /visits", "POST /visits", "GET /robots.txt"] {
            println!("{}", ask(address, request).await?);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        () = running => Ok(()),
        done = client => done,
    }
}
