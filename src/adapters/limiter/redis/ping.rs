//! A check of a Redis server, for `copilotd check --online`.

/// Checks that the server answers.
///
/// # Errors
/// The reason, for the operator; without the address, which may contain a password.
pub async fn ping(url: &str) -> Result<(), String> {
    let failed = |error: redis::RedisError| match error.kind() {
        redis::ErrorKind::AuthenticationFailed => "the server rejected the user name or password".to_owned(),
        _ => match error.code() {
            Some(code) => format!("the server answered with an error: {code}"),
            None => "no answer at this address".to_owned(),
        },
    };
    let client = redis::Client::open(url).map_err(|_error| "the address is invalid".to_owned())?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    redis::cmd("PING")
        .query_async::<()>(&mut connection)
        .await
        .map_err(failed)
}
