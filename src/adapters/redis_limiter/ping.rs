//! A look at a Redis from outside, for `copilotd check --online`.

/// Asks whether it answers.
///
/// # Errors
/// Why not, in words for whoever runs it; without the address, which may hold a password.
pub async fn ping(url: &str) -> Result<(), String> {
    let failed = |error: redis::RedisError| match error.kind() {
        redis::ErrorKind::AuthenticationFailed => "it refuses the user or the password".to_owned(),
        _ => match error.code() {
            Some(code) => format!("it refuses: {code}"),
            None => "nothing answers there".to_owned(),
        },
    };
    let client = redis::Client::open(url).map_err(|_error| "the address is not valid".to_owned())?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    redis::cmd("PING")
        .query_async::<()>(&mut connection)
        .await
        .map_err(failed)
}
