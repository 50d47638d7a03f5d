//! `imtracker run`: answers by HTTP and UDP.

use std::net::SocketAddr;
use std::sync::Arc;

use instantmirror_core::address::Ipv4Wildcards;
use instantmirror_core::memory::Nothing;
use instantmirror_http::{Mounts, RouteTable, Routes, Service};
use instantmirror_tracker::UdpServer;

use super::announce::{Control, control_routes, public_routes};
use super::{Tracker, TrackerError};
use crate::config::{ConfigError, TrackerConfig};
use crate::reload::Reloader;
use crate::serve::{Frontend, Load, OpenError, Sockets, StatusPage};

/// A tracker with its sockets open.
#[derive(Debug)]
pub struct TrackerServer {
    tracker: Tracker,
    sockets: Sockets,
    udp: Vec<UdpServer>,
    frontend: Frontend,
    load: Option<Load<TrackerConfig>>,
    control: RouteTable<Control>,
}

impl TrackerServer {
    /// Opens the sockets. Nothing is answered before [`run`](Self::run).
    ///
    /// # Errors
    /// [`TrackerError::Http`] and [`TrackerError::Udp`] for an address in use, or a certificate or access log that cannot be
    /// used.
    pub async fn bind(tracker: Tracker) -> Result<Self, TrackerError> {
        Self::bind_with_routes(tracker, Routes::new()).await
    }

    /// The same with routes of the embedder's beside those of the tracker, for the public. They stay through every reload.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and [`OpenError::Routes`] if routes contradict each other.
    pub async fn bind_with_routes(tracker: Tracker, routes: Routes) -> Result<Self, TrackerError> {
        let routes = public_routes().with_state(tracker.clone()).merge(routes);
        let routes = routes.build().map_err(OpenError::from)?;
        let control = control_routes().build().map_err(OpenError::from)?;
        let config = tracker.config();
        let sockets = Sockets::open(&config.http, tracker.0.control_socket.as_deref(), None).await?;
        let mut udp = Vec::new();
        let wildcards = Ipv4Wildcards::among(&config.udp.listen);
        for address in &config.udp.listen {
            udp.push(UdpServer::bind_beside(*address, &wildcards).await?);
        }
        let make = move || Service::new(Arc::new(Nothing)).with_routes(routes.clone());
        let frontend = sockets.frontend(&config.http, Mounts::default(), make);
        Ok(Self {
            tracker,
            sockets,
            udp,
            frontend,
            load: None,
            control,
        })
    }

    /// Reads its configuration so when it is told to reload: by the control socket, or by whoever calls
    /// [`reloader`](Self::reloader).
    #[must_use]
    pub fn reloading(mut self, load: impl Fn() -> Result<TrackerConfig, ConfigError> + Send + Sync + 'static) -> Self {
        self.load = Some(Load::new(load));
        self
    }

    /// Reads the configuration again and takes up what can change while the tracker runs; `None` if it was not said
    /// [how](Self::reloading).
    #[must_use]
    pub fn reloader(&self) -> Option<Reloader> {
        let (tracker, frontend, load) = (self.tracker.clone(), self.frontend.clone(), self.load.clone()?);
        Some(Arc::new(move || {
            let config = load.load()?;
            let shown = frontend.reload(&config.http, Mounts::default());
            let mut reloaded = tracker.reload(config);
            reloaded.extend(shown);
            reloaded.tell();
            Ok(reloaded)
        }))
    }

    /// The URLs to put into torrents, as far as the addresses are those that clients can reach.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let http = self.sockets.urls().into_iter();
        let http = http.map(|url| format!("{}/announce", url.trim_end_matches('/')));
        let udp = self
            .udp
            .iter()
            .map(|server| format!("udp://{}/announce", server.address()));
        http.chain(udp).collect()
    }

    /// The addresses of its UDP sockets.
    #[must_use]
    pub fn udp_addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().map(UdpServer::address).collect()
    }

    /// What can be changed while it runs.
    #[must_use]
    pub fn frontend(&self) -> Frontend {
        self.frontend.clone()
    }

    /// Answers until `shutdown` is ready, then finishes the HTTP requests that run.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let reload = self.reloader();
        let Self {
            tracker,
            sockets,
            udp,
            frontend,
            control,
            ..
        } = self;
        let (shown, answers) = (tracker.clone(), frontend.clone());
        let status = StatusPage::new(move || serde_json::to_vec(&shown.status(answers.status())));
        let routes = control.with_state(Control { status, reload });
        let local = Service::new(Arc::new(Nothing)).with_routes(routes);
        let parts = &tracker.0;
        let datagrams = udp
            .iter()
            .map(|server| server.serve(&parts.registry, &parts.ids, parts.began));
        let datagrams = async {
            futures_util::future::join_all(datagrams).await;
            // Without UDP there is nothing that could end.
            std::future::pending::<()>().await;
        };
        let background = futures_util::future::join(datagrams, tracker.keep_up());
        sockets.serve(&frontend, local, background, shutdown).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http::Response;
    use instantmirror_http::{Access, RouteError};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn bind(path: &'static str) -> Result<TrackerServer, TrackerError> {
        let socket = std::env::temp_dir().join(format!("instantmirror-own-routes-{}.sock", std::process::id()));
        let text = format!(
            "[torrents]\nallow = [{:?}]\n[http]\nlisten = [\"127.0.0.1:0\"]\n[control]\nsocket = {socket:?}\n",
            "a".repeat(40)
        );
        let config = TrackerConfig::parse(Path::new("imtracker.toml"), &text).unwrap();
        let hello = |_| async { Response::new("hello".into()) };
        let routes = Routes::new().get(path, Access::Public, "Greets", hello);
        TrackerServer::bind_with_routes(Tracker::open(config)?, routes).await
    }

    #[tokio::test]
    async fn routes_of_ones_own_are_answered_listed_and_refused_where_they_contradict() {
        let refused = bind("/announce").await.unwrap_err();
        let is_twice = matches!(
            refused,
            TrackerError::Http(OpenError::Routes(RouteError::Duplicate { .. }))
        );
        assert!(is_twice && refused.to_string().contains("Greets"), "{refused}");
        let server = bind("/hello").await.unwrap();
        let list = server.frontend().routes().to_string();
        assert!(
            list.contains("GET  /hello     everybody  Greets\n") && list.contains("/announce"),
            "{list}"
        );
        let address = server.sockets.addresses()[0];
        let client = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET /hello HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        tokio::select! {
            () = server.run(std::future::pending()) => panic!("it ended"),
            answer = client => assert!(answer.ends_with("\r\n\r\nhello"), "{answer}"),
        }
    }
}
