//! The page behind a problem's `type`.

use super::app::with_app;

#[tokio::test(start_paused = true)]
async fn the_type_of_a_problem_leads_to_its_page_without_a_credential() {
    with_app(async |app| {
        let problem = app
            .call("GET", "/v1/conversations")
            .send()
            .await
            .problem(401, "unauthenticated");
        let link = problem["type"].as_str().unwrap();
        let path = link.strip_prefix("https://copilotd.dev").unwrap();
        let page = app.call("GET", path).send().await.expect(200);
        assert_eq!(page.headers["content-type"], "text/markdown; charset=utf-8");
        assert!(
            String::from_utf8_lossy(&page.body).starts_with("# unauthenticated\n"),
            "{}",
            String::from_utf8_lossy(&page.body)
        );
        let page = app
            .call("GET", path)
            .header("accept", "text/html")
            .send()
            .await
            .expect(200);
        assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
        assert!(
            String::from_utf8_lossy(&page.body).contains("<h2>Cause</h2>"),
            "{}",
            String::from_utf8_lossy(&page.body)
        );
        for unknown in ["nothing", "../../Cargo", "unauthenticated.md"] {
            let path = format!("/problems/{}", unknown.replace('/', "%2F"));
            app.call("GET", &path).send().await.problem(404, "not_found");
        }
    })
    .await;
}
