//! The application on a real socket, in this process, with limits chosen by the test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use copilotd::config::Server;
use copilotd::http::account::Budgets;
use copilotd::http::server::{self, Connections, Timeouts};
use copilotd::surfaces::router::router;
use copilotd::surfaces::state::{AppState, Services};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::app::TestApp;

/// Maximum time to wait for an expected event.
const DEADLINE: Duration = Duration::from_secs(30);

/// An application on a socket.
pub struct Wire {
    pub address: SocketAddr,
    pub connections: Arc<Connections>,
    pub budgets: Arc<Budgets>,
}

/// Serves `app` with the limits of `server` while `test` runs.
pub async fn serve(app: &TestApp, server: &Server, test: impl AsyncFnOnce(&Wire)) {
    let timeouts = Timeouts::new(server);
    serve_with(app, server, timeouts, test).await;
}

/// Like [`serve`], with timeouts that the configuration does not offer.
pub async fn serve_with(app: &TestApp, server: &Server, timeouts: Timeouts, test: impl AsyncFnOnce(&Wire)) {
    let mut services = Services::clone(&app.app.state);
    services.body.time = server.body_timeout;
    services.budgets = Budgets::new(server);
    let state = AppState::from(services);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wire = Wire {
        address: listener.local_addr().unwrap(),
        connections: Connections::new(server, server.max_connections),
        budgets: Arc::clone(&state.budgets),
    };
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(server::serve(
        listener,
        router(state),
        timeouts,
        Arc::clone(&wire.connections),
        stopped,
        Duration::from_millis(300),
    ));
    test(&wire).await;
    stop.send_replace(true);
    serving.await.unwrap();
}

impl Wire {
    /// Connects a client with a small receive buffer.
    pub async fn connect(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Connects an HTTP/2 client with this window per response.
    pub async fn http2(&self, window: u32) -> h2::client::SendRequest<Bytes> {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let builder = h2::client::Builder::new().initial_window_size(window).to_owned();
        let (client, connection) = builder.handshake(socket).await.unwrap();
        tokio::spawn(connection);
        client.ready().await.unwrap()
    }

    /// A request with a bearer credential, or without one.
    pub fn request(&self, path: &str, token: Option<&str>) -> axum::http::Request<()> {
        let mut request = axum::http::Request::get(format!("http://{}{path}", self.address));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(()).unwrap()
    }

    /// Sends a request on a new connection and returns the status.
    pub async fn status(&self, path: &str, token: &str) -> u16 {
        let request = reqwest::Client::new().get(format!("http://{}{path}", self.address));
        request.bearer_auth(token).send().await.unwrap().status().as_u16()
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let looks = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, looks).await;
    assert!(waited.is_ok(), "it never was so: {what}");
}
