//! The chat widget's files: public, cached as long as their names allow, and readable by pages of any origin.

use super::app::with_app;

#[tokio::test(start_paused = true)]
async fn pages_of_any_origin_load_the_widget_without_a_credential() {
    with_app(async |app| {
        let loader = app
            .call("GET", "/widget.js")
            .header("origin", "https://shop.example")
            .send()
            .await
            .expect(200);
        let script = String::from_utf8_lossy(&loader.body).into_owned();
        let start = script.find("/widget/app-").expect("the loader names the app");
        let app_path = script[start..].split(['"', '\'', '`']).next().unwrap();
        for (path, cache) in [
            ("/widget.js", "public, max-age=300"),
            (app_path, "public, max-age=31536000, immutable"),
            ("/widget/app.js", "public, max-age=300"),
            ("/widget/widget.js", "public, max-age=300"),
        ] {
            let file = app.call("GET", path).send().await.expect(200);
            assert_eq!(file.headers["content-type"], "text/javascript; charset=utf-8", "{path}");
            assert_eq!(file.headers["cache-control"], cache, "{path}");
            assert_eq!(file.headers["access-control-allow-origin"], "*", "{path}");
            assert_eq!(file.headers["cross-origin-resource-policy"], "cross-origin", "{path}");
            assert_eq!(file.headers["x-content-type-options"], "nosniff", "{path}");
            let etag = file.headers["etag"].to_str().unwrap();
            let again = app
                .call("GET", path)
                .header("if-none-match", etag)
                .send()
                .await
                .expect(304);
            assert!(again.body.is_empty(), "{path}");
            let compressed = app
                .call("GET", path)
                .header("accept-encoding", "br, gzip")
                .send()
                .await
                .expect(200);
            assert_eq!(compressed.headers["content-encoding"], "gzip", "{path}");
            assert_ne!(compressed.headers["etag"], file.headers["etag"], "{path}");
            assert_eq!(compressed.headers["vary"], "accept-encoding", "{path}");
            assert!(compressed.body.len() < file.body.len() / 2, "{path}");
        }
        for unknown in ["app-000000000000.js", "SHA256SUMS", "..%2FSHA256SUMS", "index.html"] {
            let path = format!("/widget/{unknown}");
            app.call("GET", &path).send().await.problem(404, "not_found");
        }
    })
    .await;
}
