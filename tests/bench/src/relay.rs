//! The minimum that a gateway does: accepts a request with the server's HTTP library, forwards it with its client's,
//! and returns the answer. Whatever a gateway adds beyond this is its own cost.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// Where requests are forwarded to.
struct Provider {
    client: reqwest::Client,
    address: SocketAddr,
}

/// Serves on a free port, which is printed, until the process is killed.
pub async fn serve(provider: SocketAddr) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
    let provider = Arc::new(Provider {
        client,
        address: provider,
    });
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    let router = Router::new().fallback(relay).with_state(provider);
    Ok(axum::serve(
        axum::serve::ListenerExt::tap_io(listener, |stream| _ = stream.set_nodelay(true)),
        router,
    )
    .await?)
}

async fn relay(State(provider): State<Arc<Provider>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let url = format!("http://{}{}", provider.address, uri.path());
    let mut sent = provider
        .client
        .post(url)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(credential) = headers.get(header::AUTHORIZATION) {
        sent = sent.header(header::AUTHORIZATION, credential);
    }
    let Ok(answer) = sent.body(body).send().await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let status = answer.status();
    let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
    if let Some(kind) = kind.filter(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
        let stream = Body::from_stream(answer.bytes_stream());
        return (status, [(header::CONTENT_TYPE, kind)], stream).into_response();
    }
    match answer.bytes().await {
        Ok(bytes) => (status, [(header::CONTENT_TYPE, "application/json")], Body::from(bytes)).into_response(),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}
