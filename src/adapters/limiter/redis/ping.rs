//! A check of a Redis server, for `copilotd check --online`.

/// Checks that the server answers.
///
/// # Errors
/// The reason, for the operator; without the address, which may contain a password.
pub async fn ping(url: &str) -> Result<(), String> {
    let failed = |error: redis::RedisError| match error.kind() {
        redis::ErrorKind::AuthenticationFailed => "the server rejects the user or the password".to_owned(),
        _ => match error.code() {
            Some(code) => format!("the server answers with an error: {code}"),
            None => "no server answers there".to_owned(),
        },
    };
    let client = redis::Client::open(url).map_err(|_error| "the address is invalid".to_owned())?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    redis::cmd("PING")
        .query_async::<()>(&mut connection)
        .await
        .map_err(failed)
}
