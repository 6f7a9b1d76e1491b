//! Embeddings of documents by a provider's model: at the tenant's cost, only of the model that is configured, and in time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::post;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::prices::PriceList;
use copilotd_actors::domain::usage::Price;
use copilotd_actors::fakes::embedder::contract;
use copilotd_actors::ports::{EmbedError, EmbedRequest, Embedder, Purpose, Urgency};
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::access::{Access, Keys, ModelAccess, TenantAccess, TenantPolicy};
use copilotd_gateway::dispatch::{DocumentModel, TextForm};
use copilotd_gateway::limit::{Limits, LocalLimiter, TenantLimits};
use copilotd_gateway::request::call;
use copilotd_gateway::target::TargetName;
use copilotd_gateway::{Gateway, provider::Timeouts};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::spending::NewYear;
use super::{CLOCKS, Ledger, Provider, gateway, gateway_for, place, refusing};

/// The model `a/gpt`, with vectors of `dimensions` numbers.
fn model(dimensions: usize) -> DocumentModel {
    DocumentModel {
        route: "default".to_owned(),
        target: TargetName::parse("a/gpt").unwrap(),
        dimensions,
        is_shortened: false,
        query: TextForm::default(),
        passage: TextForm::default(),
        batch: 4,
    }
}

fn scope(tenant: &str) -> TenantScope {
    TenantScope::from_verified(tenant.parse().unwrap())
}

/// What a tenant embeds with.
fn embedder(gateway: &Gateway, model: DocumentModel, tenant: &str) -> Arc<dyn Embedder> {
    gateway.document_embedder(model).of_tenant(&scope(tenant)).unwrap()
}

fn passages(texts: &[&str]) -> EmbedRequest {
    EmbedRequest {
        texts: texts.iter().map(|text| (*text).to_owned()).collect(),
        purpose: Purpose::Passage,
        urgency: Urgency::Background,
    }
}

fn question(text: &str) -> EmbedRequest {
    EmbedRequest {
        texts: vec![text.to_owned()],
        purpose: Purpose::Query,
        urgency: Urgency::Foreground,
    }
}

/// How a server of embeddings answers one request.
type Answer = Box<dyn Fn(&Value) -> (StatusCode, Value) + Send + Sync>;

/// A server of embeddings that answers as a test says, and what it was asked.
struct Scripted {
    answer: Answer,
    seen: Mutex<Vec<Value>>,
    /// While there is one, requests wait for it before they are answered.
    gate: Option<Notify>,
    arrived: Notify,
}

impl Scripted {
    async fn start(answer: impl Fn(&Value) -> (StatusCode, Value) + Send + Sync + 'static) -> (Arc<Self>, String) {
        Self::start_with(answer, None).await
    }

    async fn start_with(
        answer: impl Fn(&Value) -> (StatusCode, Value) + Send + Sync + 'static,
        gate: Option<Notify>,
    ) -> (Arc<Self>, String) {
        let server = Arc::new(Self {
            answer: Box::new(answer),
            seen: Mutex::default(),
            gate,
            arrived: Notify::new(),
        });
        let handler = async |State(server): State<Arc<Self>>, axum::Json(body): axum::Json<Value>| {
            server.seen.lock().push(body.clone());
            server.arrived.notify_one();
            if let Some(gate) = &server.gate {
                gate.notified().await;
            }
            let (status, body) = (server.answer)(&body);
            (status, axum::Json(body)).into_response()
        };
        let router = Router::new()
            .route("/v1/embeddings", post(handler))
            .with_state(Arc::clone(&server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (server, url)
    }

    fn texts(&self) -> Vec<Vec<String>> {
        let texts = |body: &Value| serde_json::from_value(body["input"].clone()).unwrap();
        self.seen.lock().iter().map(texts).collect()
    }
}

/// A good answer: for each text a vector of three numbers, the first of which is its length; the last text first.
fn lengths(body: &Value) -> (StatusCode, Value) {
    let texts = body["input"].as_array().unwrap().iter().enumerate();
    let item = |(index, text): (usize, &Value)| {
        let length = text.as_str().unwrap().len();
        json!({"object": "embedding", "index": index, "embedding": [length, 1, 0]})
    };
    let data: Vec<Value> = texts.map(item).rev().collect();
    let usage = json!({"prompt_tokens": 7, "total_tokens": 7});
    (
        StatusCode::OK,
        json!({"object": "list", "data": data, "model": "gpt", "usage": usage}),
    )
}

#[tokio::test]
async fn a_provider_keeps_the_contract() {
    let provider = Provider::start().await;
    let (gateway, _) = gateway(vec![place("a", provider.url())], CLOCKS);
    let alike = ["How do I reset my password?", "reset the password"];
    contract(
        &*embedder(&gateway, model(1_536), "acme"),
        alike,
        "Holidays in August",
        1e-4,
    )
    .await;
}

#[tokio::test]
async fn texts_are_sent_as_the_model_wants_them_and_vectors_come_back_in_order() {
    let (server, url) = Scripted::start(lengths).await;
    let (gateway, ledger) = gateway(vec![place("a", url)], CLOCKS);
    let form = |prefix: &str, input_type: Option<&str>| TextForm {
        prefix: prefix.to_owned(),
        input_type: input_type.map(str::to_owned),
    };
    let model = DocumentModel {
        is_shortened: true,
        query: form("query: ", None),
        passage: form("", Some("passage")),
        ..model(3)
    };
    let embedder = embedder(&gateway, model.clone(), "acme");
    let request = passages(&["a", "bbb", "", "dd", "e", "ffffff"]);
    let vectors = embedder.embed(request).await.unwrap();
    let first: Vec<f32> = vectors
        .iter()
        .map(|vector| vector.values()[0] / vector.values()[1])
        .collect();
    // A space stands for an empty text, which vendors refuse.
    let close = first
        .iter()
        .zip([1.0, 3.0, 1.0, 2.0, 1.0, 6.0])
        .all(|(a, b)| (a - b).abs() < 1e-3);
    assert!(
        close && vectors.iter().all(|vector| *vector.space() == model.space()),
        "{first:?}"
    );
    embedder.embed(question("how?")).await.unwrap();
    let texts = server.texts();
    assert_eq!(
        texts,
        [vec!["a", "bbb", " ", "dd"], vec!["e", "ffffff"], vec!["query: how?"]]
    );
    let seen = server.seen.lock();
    assert_eq!(
        (&seen[0]["input_type"], &seen[0]["dimensions"]),
        (&json!("passage"), &json!(3))
    );
    assert_eq!(
        (&seen[2]["input_type"], &seen[2]["model"]),
        (&Value::Null, &json!("gpt"))
    );
    // Charged to the tenant, with what for.
    let calls: Vec<_> = ledger
        .rows()
        .iter()
        .map(|row| {
            (
                row.caller.purpose,
                row.caller.scope.tenant().to_string(),
                row.usage.prompt_tokens,
            )
        })
        .collect();
    let acme = || "acme".to_owned();
    let (documents, search) = (call::Purpose::Ingestion, call::Purpose::Retrieval);
    assert_eq!(
        calls,
        [(documents, acme(), 7), (documents, acme(), 7), (search, acme(), 7)]
    );
}

#[tokio::test]
async fn without_a_tenant_nothing_is_embedded() {
    let (server, url) = Scripted::start(lengths).await;
    let (gateway, _) = gateway(vec![place("a", url)], CLOCKS);
    let embedded = gateway.document_embedder(model(3)).embed(passages(&["a"])).await;
    assert!(matches!(embedded, Err(EmbedError::Denied(_))), "{embedded:?}");
    assert!(server.texts().is_empty());
}

#[tokio::test]
async fn another_number_of_dimensions_is_refused_and_not_asked_for_again() {
    let (server, url) = Scripted::start(lengths).await;
    let (gateway, _) = gateway(vec![place("a", url)], CLOCKS);
    let model = gateway.document_embedder(model(4));
    let [acme, globex] = ["acme", "globex"].map(|tenant| model.of_tenant(&scope(tenant)).unwrap());
    let embedded = acme.embed(passages(&["a"])).await;
    let Err(EmbedError::Denied(message)) = embedded else {
        panic!("{embedded:?}")
    };
    assert!(
        message.contains("a/gpt") && message.contains('3') && message.contains('4'),
        "{message}"
    );
    assert!(!model.is_ready());
    assert!(matches!(globex.embed(question("b")).await, Err(EmbedError::Denied(_))));
    assert_eq!(server.texts().len(), 1);
}

#[tokio::test]
async fn answers_that_are_no_list_of_vectors_are_failures_and_soon_nobody_waits_for_them() {
    let bodies: [fn(&Value) -> Value; 4] = [
        |_| json!({"data": [{"index": 0, "embedding": [1, 0, 0]}]}),
        |_| json!({"data": [{"index": 0, "embedding": [1, 0, 0]}, {"index": 0, "embedding": [1, 0, 0]}]}),
        |_| json!({"data": [{"index": 0, "embedding": [0, 0, 0]}, {"index": 1, "embedding": [1, 0, 0]}]}),
        |_| json!({"data": [{"index": 0, "embedding": "AAAA"}, {"index": 1, "embedding": [1, 0, 0]}]}),
    ];
    for body in bodies {
        let (server, url) = Scripted::start(move |asked| (StatusCode::OK, body(asked))).await;
        let (gateway, _) = gateway(vec![place("a", url)], CLOCKS);
        let embedder = embedder(&gateway, model(3), "acme");
        for _ in 0..3 {
            let embedded = embedder.embed(passages(&["a", "b"])).await;
            assert!(matches!(embedded, Err(EmbedError::Failed(_))), "{embedded:?}");
        }
        let asked = server.texts().len();
        let embedded = embedder.embed(question("c")).await;
        assert!(matches!(embedded, Err(EmbedError::Denied(_))) && !embedder.is_ready());
        assert_eq!(server.texts().len(), asked, "it is not asked for a moment");
    }
}

#[tokio::test]
async fn texts_that_the_model_refuses_are_sent_alone_and_shorter() {
    // No more than two texts, and none of more than 1,000 bytes; never the forbidden one.
    let (server, url) = Scripted::start(|body| {
        let texts = body["input"].as_array().unwrap();
        let text = |text: &Value| text.as_str().unwrap().to_owned();
        let is_bad = |one: &Value| text(one).len() > 1_000 || text(one).contains("forbidden");
        if texts.len() > 2 || texts.iter().any(is_bad) {
            let error = json!({"error": {"message": "too much", "type": "invalid_request_error"}});
            return (StatusCode::BAD_REQUEST, error);
        }
        lengths(body)
    })
    .await;
    let (gateway, _) = gateway(vec![place("a", url)], CLOCKS);
    let embedder = embedder(&gateway, model(3), "acme");
    let long = "é".repeat(900);
    let vectors = embedder.embed(passages(&["a", "b", &long, "c"])).await.unwrap();
    assert_eq!(vectors.len(), 4);
    let expected = (900.0_f32 / 1.0).recip();
    assert!((vectors[2].values()[1] / vectors[2].values()[0] - expected).abs() < 1e-4);
    let refused = embedder.embed(passages(&["a", "forbidden"])).await;
    assert!(matches!(refused, Err(EmbedError::TooLarge(_))), "{refused:?}");
    assert!(embedder.is_ready(), "the texts are to blame");
    assert!(server.texts().len() < 20);
}

#[tokio::test]
async fn a_provider_that_is_away_or_slow_costs_a_question_a_bounded_time() {
    let (gateway_away, _) = gateway(vec![place("a", refusing().await)], CLOCKS);
    let embedded = embedder(&gateway_away, model(3), "acme").embed(question("a")).await;
    assert!(
        matches!(embedded, Err(EmbedError::Failed(_) | EmbedError::Timeout)),
        "{embedded:?}"
    );
    // It never answers.
    let (_server, url) = Scripted::start_with(lengths, Some(Notify::new())).await;
    let timeouts = Timeouts {
        first_token: Duration::from_secs(60),
        total: Duration::from_secs(120),
        ..CLOCKS
    };
    let (gateway_slow, ledger) = gateway(vec![place("a", url)], timeouts);
    let embedder = embedder(&gateway_slow, model(3), "acme");
    let embedded = tokio::time::timeout(Duration::from_secs(30), embedder.embed(question("a"))).await;
    assert!(matches!(embedded, Ok(Err(EmbedError::Timeout))), "{embedded:?}");
    assert!(!embedder.is_ready());
    assert_eq!(ledger.rows().len(), 1, "the attempt is recorded");
}

#[tokio::test]
async fn no_batch_of_documents_begins_while_a_question_is_on_its_way() {
    let (server, url) = Scripted::start_with(lengths, Some(Notify::new())).await;
    let timeouts = Timeouts {
        first_token: Duration::from_secs(60),
        total: Duration::from_secs(120),
        ..CLOCKS
    };
    let (gateway, _) = gateway(vec![place("a", url)], timeouts);
    let model = gateway.document_embedder(model(3));
    let [acme, globex] = ["acme", "globex"].map(|tenant| model.of_tenant(&scope(tenant)).unwrap());
    let asked = tokio::spawn(async move { acme.embed(question("question")).await });
    server.arrived.notified().await;
    let ingested = tokio::spawn(async move { globex.embed(passages(&["passage"])).await });
    // Only what holds up the background can make it fail: it would arrive before the answer otherwise.
    tokio::task::yield_now().await;
    server.gate.as_ref().unwrap().notify_one();
    assert!(asked.await.unwrap().is_ok());
    server.arrived.notified().await;
    server.gate.as_ref().unwrap().notify_one();
    assert!(ingested.await.unwrap().is_ok());
    assert_eq!(server.texts(), [["question"], ["passage"]]);
}

/// A gateway whose model only these tenants may use.
fn open_to(url: String, tenants: &[&str]) -> (Arc<Gateway>, Arc<Ledger>) {
    let access = |shared: HashMap<TargetName, Keys>| {
        let of = |tenant: &&str| {
            let access = ModelAccess {
                only: None,
                own: HashMap::new(),
                policy: Arc::new(TenantPolicy::default()),
            };
            (tenant.parse::<TenantId>().unwrap(), access)
        };
        Arc::new(TenantAccess::new(shared, tenants.iter().map(of).collect())) as Arc<dyn Access>
    };
    gateway_for(vec![place("a", url)], CLOCKS, false, access)
}

#[tokio::test]
async fn no_text_of_a_tenant_goes_to_a_model_that_it_may_not_use() {
    let (server, url) = Scripted::start(lengths).await;
    let (gateway, ledger) = open_to(url, &["acme"]);
    let model = gateway.document_embedder(model(3));
    let [acme, globex] = ["acme", "globex"].map(|tenant| model.of_tenant(&scope(tenant)).unwrap());
    for request in [passages(&["secret"]), question("secret")] {
        let denied = globex.embed(request).await;
        assert!(matches!(denied, Err(EmbedError::Denied(_))), "{denied:?}");
    }
    assert!(acme.embed(passages(&["open"])).await.is_ok());
    assert_eq!(server.texts(), [["open"]]);
    assert_eq!(ledger.rows().len(), 1);
    assert!(model.is_ready());
}

#[tokio::test]
async fn an_exhausted_budget_denies_that_tenant_alone() {
    let (server, url) = Scripted::start(lengths).await;
    let (gateway, _) = open_to(url, &["acme", "globex"]);
    let clock = Arc::new(NewYear);
    let limits = TenantLimits {
        tenant: Limits {
            usd_per_month: Some(1),
            ..Limits::default()
        },
        ..TenantLimits::default()
    };
    let limiter = LocalLimiter::new([("acme".parse().unwrap(), limits)], clock.clone());
    let price = Price::flat(1_000_000_000, 1_000_000_000);
    let prices: PriceList = [("gpt".to_owned(), Timestamp::MIN, price)].into_iter().collect();
    let gateway = Arc::into_inner(gateway).unwrap();
    let gateway = gateway.with_limits(Arc::new(limiter), prices, clock);
    let model = gateway.document_embedder(model(3));
    let [acme, globex] = ["acme", "globex"].map(|tenant| model.of_tenant(&scope(tenant)).unwrap());
    let denied = acme.embed(passages(&["a"])).await;
    assert!(matches!(denied, Err(EmbedError::Denied(_))), "{denied:?}");
    assert!(globex.embed(passages(&["b"])).await.is_ok());
    assert_eq!(server.texts(), [["b"]]);
}
