//! Small PDF documents, written by hand.

/// Returns a document of these objects, the first of which is the catalogue. Without a table of them: PDFium looks
/// for them itself.
pub fn document(objects: &[&str], trailer: &str) -> Vec<u8> {
    let mut text = "%PDF-1.7\n".to_owned();
    for (number, object) in (1..).zip(objects) {
        text += &format!("{number} 0 obj\n{object}\nendobj\n");
    }
    text += &format!("trailer\n<</Root 1 0 R{trailer}>>\n%%EOF\n");
    text.into_bytes()
}

fn stream(attributes: &str, content: &str) -> String {
    format!(
        "<<{attributes}/Length {}>>\nstream\n{content}\nendstream",
        content.len()
    )
}

/// Returns a document with a page per text. `info` is the content of its properties.
pub fn pages(texts: &[&str], info: &str) -> Vec<u8> {
    pages_with(texts, info, "")
}

fn pages_with(texts: &[&str], info: &str, trailer: &str) -> Vec<u8> {
    let first = 5;
    let numbers: Vec<String> = (0..texts.len())
        .map(|page| format!("{} 0 R", first + 2 * page))
        .collect();
    let mut objects = vec![
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        format!("<</Type/Pages/Kids[{}]/Count {}>>", numbers.join(" "), texts.len()),
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>".to_owned(),
        format!("<<{info}>>"),
    ];
    for (page, text) in texts.iter().enumerate() {
        objects.push(format!(
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents {} 0 R/Resources<</Font<</F 3 0 R>>>>>>",
            first + 2 * page + 1
        ));
        objects.push(stream("", &format!("BT /F 12 Tf 20 700 Td ({text}) Tj ET")));
    }
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    document(&objects, &format!("/Info 4 0 R{trailer}"))
}

/// Returns a document that needs a password.
pub fn encrypted() -> Vec<u8> {
    let hash = "41".repeat(32);
    let encrypt = format!("<</Filter/Standard/V 2/R 3/Length 128/P -44/O<{hash}>/U<{hash}>>>");
    pages_with(&["Secret"], "", &format!("/Encrypt{encrypt}/ID[<{hash}><{hash}>]"))
}

/// Returns a document that takes years to read, and little memory: each of its forms draws the next one ten times, and
/// the last one has many operators without effect.
pub fn burning() -> Vec<u8> {
    const DEPTH: usize = 20;
    let mut objects = vec![
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        "<</Type/Pages/Kids[3 0 R]/Count 1>>".to_owned(),
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<</XObject<</X 5 0 R>>>>>>".to_owned(),
        stream("", "/X Do"),
    ];
    for level in 0..DEPTH {
        let next = format!("/Resources<</XObject<</X {} 0 R>>>>", 6 + level);
        let attributes = format!("/Type/XObject/Subtype/Form/BBox[0 0 9 9]{next}");
        objects.push(stream(&attributes, &"/X Do ".repeat(10)));
    }
    objects.push(stream(
        "/Type/XObject/Subtype/Form/BBox[0 0 9 9]",
        &"q Q ".repeat(100_000),
    ));
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    document(&objects, "")
}

/// Returns documents of every kind that is mutated.
pub fn all() -> Vec<Vec<u8>> {
    let long = "words of a page that go on ".repeat(40);
    vec![
        pages(&["One", "Two", "Three"], "/Title(Name)"),
        pages(&[long.as_str(); 6], ""),
        encrypted(),
        document(
            &[
                "<</Type/Catalog/Pages 2 0 R/Outlines 2 0 R>>",
                "<</Type/Pages/Kids[2 0 R 3 0 R]/Count 2/Parent 2 0 R>>",
                "<</Type/Page/Parent 2 0 R/Contents[3 0 R 4 0 R]/Resources 3 0 R>>",
                "<</Length 4 0 R>>\nstream\nBT (x) Tj\nendstream",
            ],
            "/Prev 9/Size 5",
        ),
    ]
}
