use std::io::Write as _;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::*;

/// An archive of parts, each deflated; `claims` is the size that it states for each.
fn archive(parts: &[(&str, &[u8])], claims: u32) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in parts {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        let packed = encoder.finish().unwrap();
        let (offset, length) = (
            u32::try_from(bytes.len()).unwrap(),
            u32::try_from(packed.len()).unwrap(),
        );
        let named = u16::try_from(name.len()).unwrap();
        let mut about = vec![20, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        about.extend(length.to_le_bytes());
        about.extend(claims.to_le_bytes());
        about.extend(named.to_le_bytes());
        about.extend([0, 0]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&about);
        bytes.extend(name.as_bytes());
        bytes.extend(packed);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&about);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (offset, length) = (
        u32::try_from(bytes.len()).unwrap(),
        u32::try_from(directory.len()).unwrap(),
    );
    let count = u16::try_from(parts.len()).unwrap();
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend(b"\x05\0hello");
    bytes
}

const STYLES: &str = r#"<?xml version="1.0"?><w:styles>
    <w:style w:type="paragraph" w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
    <w:style w:type="paragraph" w:styleId="Own"><w:name w:val="Own"/><w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>
    <w:style w:type="paragraph" w:styleId="T1"><w:name w:val="Title"/></w:style>
    <w:style w:type="character" w:styleId="Secret"><w:name w:val="Secret"/><w:rPr><w:vanish/></w:rPr></w:style>
    <w:style w:type="paragraph" w:styleId="Derived"><w:name w:val="Derived"/><w:basedOn w:val="Own"/></w:style>
    <w:style w:type="paragraph" w:styleId="Loop"><w:name w:val="Loop"/><w:basedOn w:val="Loop"/></w:style>
    <w:style w:type="paragraph" w:styleId="Bullet"><w:name w:val="List Bullet"/><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr></w:style>
    <w:style w:type="paragraph" w:styleId="Normal"><w:name w:val="Normal"/></w:style></w:styles>"#;

fn docx(body: &str) -> Vec<u8> {
    let document = format!(r#"<?xml version="1.0" encoding="UTF-8"?><w:document><w:body>{body}</w:body></w:document>"#);
    archive(
        &[
            ("word/styles.xml", STYLES.as_bytes()),
            ("word/document.xml", document.as_bytes()),
        ],
        0,
    )
}

fn paragraph(properties: &str, text: &str) -> String {
    format!("<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>")
}

fn read_body(body: &str) -> Extracted {
    extract(&docx(body), &Limits::default()).unwrap()
}

#[test]
fn paragraphs_headings_lists_and_tables_are_read() {
    let body = [
        paragraph(r#"<w:pStyle w:val="T1"/>"#, "The handbook"),
        paragraph(r#"<w:pStyle w:val="berschrift1"/>"#, "Refunds &amp; returns"),
        r#"<w:p><w:r><w:t xml:space="preserve">Refunds take </w:t></w:r><w:r><w:rPr><w:b/></w:rPr><w:t>fi</w:t></w:r><w:r><w:t>ve</w:t>
           <w:tab/><w:t>days.</w:t><w:br/><w:t>Always</w:t></w:r></w:p>"#
            .to_owned(),
        paragraph(r#"<w:pStyle w:val="Derived"/>"#, "Steps"),
        paragraph(r#"<w:pStyle w:val="Bullet"/>"#, "Think"),
        paragraph(r#"<w:numPr><w:ilvl w:val="0"/><w:numId w:val="3"/></w:numPr>"#, "Ask"),
        paragraph(r#"<w:numPr><w:ilvl w:val="1"/><w:numId w:val="3"/></w:numPr>"#, "Wait"),
        paragraph(r#"<w:tabs><w:tab w:val="left"/></w:tabs><w:numPr><w:numId w:val="0"/></w:numPr>"#, "No item"),
        format!(
            "<w:tbl><w:tr><w:tc>{}</w:tc><w:tc>{}</w:tc></w:tr><w:tr><w:tc>{}{}</w:tc><w:tc>{}</w:tc></w:tr></w:tbl>",
            paragraph("", "Plan"),
            paragraph("", "Price"),
            paragraph("", "Pro"),
            paragraph(r#"<w:pStyle w:val="Own"/>"#, "large"),
            paragraph("", "5 &#8364;"),
        ),
        paragraph(r#"<w:pStyle w:val="Loop"/>"#, "After"),
    ];
    let read = read_body(&body.concat());
    assert_eq!(
        read.text,
        "The handbook\n\nRefunds & returns\n\nRefunds take five days.\nAlways\n\nSteps\n\n- Think\n- Ask\n  - Wait\n\nNo item\n\n\
         | Plan | Price |\n| Pro large | 5 € |\n\nAfter"
    );
    assert_eq!(read.title.as_deref(), Some("The handbook"));
    let headings: Vec<(u8, &str)> = read
        .marks
        .headings
        .iter()
        .map(|heading| (heading.level, heading.text.as_str()))
        .collect();
    assert_eq!(headings, [(1, "The handbook"), (1, "Refunds & returns"), (2, "Steps")]);
    for heading in &read.marks.headings {
        assert!(read.text[heading.offset..].starts_with(&heading.text), "{heading:?}");
    }
}

#[test]
fn what_no_reader_sees_is_left_out() {
    for (inner, expected) in [
        (
            "<w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r><w:r><w:t>seen</w:t></w:r>",
            "seen",
        ),
        (
            r#"<w:r><w:rPr><w:vanish w:val="0"/></w:rPr><w:t>seen</w:t></w:r>"#,
            "seen",
        ),
        (
            r#"<w:r><w:rPr><w:rStyle w:val="Secret"/></w:rPr><w:t>hidden</w:t></w:r><w:r><w:t>seen</w:t></w:r>"#,
            "seen",
        ),
        (
            "<w:del><w:r><w:delText>old</w:delText></w:r><w:r><w:t>old</w:t></w:r></w:del><w:ins><w:r><w:t>new</w:t></w:r></w:ins>",
            "new",
        ),
        ("<w:r><w:rPr><w:del/></w:rPr><w:t>seen</w:t></w:r>", "seen"),
        (
            "<w:r><w:instrText>HYPERLINK</w:instrText></w:r><w:hyperlink><w:r><w:t>link</w:t></w:r></w:hyperlink>",
            "link",
        ),
        (
            "<mc:AlternateContent><mc:Choice><w:r><w:t>once</w:t></w:r></mc:Choice><mc:Fallback><w:r><w:t>once</w:t></w:r>\
             </mc:Fallback></mc:AlternateContent>",
            "once",
        ),
        ("<!-- note --><w:r><w:t>seen</w:t></w:r>", "seen"),
    ] {
        assert_eq!(read_body(&format!("<w:p>{inner}</w:p>")).text, expected, "{inner}");
    }
    // Unless there is nothing else.
    let hidden = docx("<w:p><w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r></w:p>");
    let none = super::super::extract(&hidden, crate::document::Format::Docx, None, &Limits::default());
    assert_eq!(none, Err(ExtractError::NoText));
}

#[test]
fn the_archive_names_the_main_part_and_the_properties_have_a_title() {
    let relations = r#"<Relationships><Relationship Id="1" Type="http://x/officeDocument/2006/relationships/metadata" Target="a.xml"/>
        <Relationship Id="2" Type="http://x/officeDocument/2006/relationships/officeDocument" Target="/w2/main.xml"/></Relationships>"#;
    let parts: [(&str, &[u8]); 4] = [
        ("_rels/.rels", relations.as_bytes()),
        ("word/document.xml", b"<w:p><w:r><w:t>other</w:t></w:r></w:p>"),
        ("w2/main.xml", b"<w:p><w:r><w:t>main</w:t></w:r></w:p>"),
        ("docProps/core.xml", b"<cp:coreProperties><dc:title>The &lt;title&gt;</dc:title><dc:creator>Ann</dc:creator></cp:coreProperties>"),
    ];
    let read = extract(&archive(&parts, 0), &Limits::default()).unwrap();
    assert_eq!(
        (read.text.as_str(), read.title.as_deref()),
        ("main", Some("The <title>"))
    );
}

#[test]
fn bad_archives_have_named_errors() {
    let small = Limits {
        text_bytes: 10_000,
        ..Limits::default()
    };
    let good = docx(&paragraph("", "Fine."));
    let protected: Vec<u8> = "EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes).collect();
    // Many megabytes in few kilobytes, which claim to be ten bytes.
    let bomb = archive(&[("word/document.xml", &vec![b' '; 20 << 20])], 10);
    assert!(bomb.len() < 1 << 18, "{}", bomb.len());
    let long = docx(&paragraph("", &"a ".repeat(6_000)));
    for (content, error) in [
        (b"".to_vec(), ExtractError::Damaged),
        (b"PK\x03\x04 not an archive".to_vec(), ExtractError::Damaged),
        (archive(&[("other.xml", b"<a/>")], 0), ExtractError::Damaged),
        (
            archive(&[("word/document.xml", b"\0\x01\x02\x03")], 0),
            ExtractError::Damaged,
        ),
        ([COMPOUND, &protected].concat(), ExtractError::Encrypted),
        ([COMPOUND, b"an old one"].concat(), ExtractError::Damaged),
        (bomb, ExtractError::TooLarge),
        (long, ExtractError::TooLarge),
    ] {
        assert_eq!(extract(&content, &small).map(|read| read.text), Err(error));
    }
    // Cut off and with any byte changed it is read, or refused.
    for at in 0..good.len() {
        let _ = extract(&good[..at], &small);
        for change in [0x01, 0x80, 0xff] {
            let mut changed = good.clone();
            changed[at] ^= change;
            let _ = extract(&changed, &small);
        }
    }
    // A part that refers to itself as the directory, and one of no length.
    let mut looped = good.clone();
    let end = looped.windows(4).rposition(|window| window == b"PK\x05\x06").unwrap();
    looped[end + 16..end + 20].copy_from_slice(&0_u32.to_le_bytes());
    assert_eq!(
        extract(&looped, &small).map(|read| read.text),
        Err(ExtractError::Damaged)
    );
}
