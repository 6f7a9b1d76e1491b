//! `copilotd healthcheck`: asks the configured server whether it is ready, for a container's health check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::args::HealthcheckArgs;
use super::{Context, Failure, print};
use crate::config::Server;
use crate::response_body;

/// Most bytes that are shown of an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Asks the server. Anything but a 200 in time is a failure.
pub async fn healthcheck(args: &HealthcheckArgs, context: &Context) -> Result<(), Failure> {
    let wait = Duration::try_from(args.timeout).ok().filter(|wait| !wait.is_zero());
    let wait = wait.ok_or_else(|| Failure::usage("--timeout must be positive, such as 3s"))?;
    // This process may not have the server's secrets, and faults that the running server tolerates do not matter here.
    let source = context.source(&args.config)?.without_secrets();
    let globals = source.globals();
    let globals = globals.map_err(|faults| Failure::usage(source.report_all(&faults)))?;
    let path = if args.live { "/healthz" } else { "/readyz" };
    let address = format!("http://{}{path}", probe_address(&globals.config().server));
    let client = reqwest::Client::builder().timeout(wait).no_proxy().build();
    let client = client.map_err(|error| Failure::failed(format!("cannot create an HTTP client: {error}")))?;
    let answer = client.get(&address).send().await;
    let mut answer = answer.map_err(|error| {
        let why = if error.is_timeout() {
            format!("no answer within {:#}", args.timeout)
        } else {
            "cannot connect; is the server running?".to_owned()
        };
        Failure::failed(format!("{address}: {why}"))
    })?;
    let status = answer.status();
    let mut body = Vec::new();
    // The status alone is an answer.
    let _ = response_body::read_start(&mut answer, &mut body, MAX_ANSWER).await;
    let body = String::from_utf8_lossy(&body);
    if status == reqwest::StatusCode::OK {
        return print(&format!("{address}: {body}\n"));
    }
    Err(Failure::failed(format!(
        "{address}: not healthy (status {}): {body}",
        status.as_u16()
    )))
}

/// Returns the address to ask: the admin port if there is one, because clients cannot crowd it; loopback if the server
/// listens on all addresses.
fn probe_address(server: &Server) -> SocketAddr {
    let mut address = server.admin_listen.unwrap_or(server.listen);
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_port_is_asked_and_an_address_that_can_be_reached() {
        for (listen, admin, expected) in [
            ("127.0.0.1:8080", None, "127.0.0.1:8080"),
            ("0.0.0.0:8080", None, "127.0.0.1:8080"),
            ("[::]:8080", None, "[::1]:8080"),
            ("10.0.0.7:80", None, "10.0.0.7:80"),
            ("0.0.0.0:8080", Some("0.0.0.0:9090"), "127.0.0.1:9090"),
        ] {
            let server = Server {
                listen: listen.parse().unwrap(),
                admin_listen: admin.map(|admin| admin.parse().unwrap()),
                ..Server::default()
            };
            assert_eq!(probe_address(&server).to_string(), expected, "{listen}");
        }
    }
}
