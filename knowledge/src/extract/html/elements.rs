//! What elements mean for the text.

/// An open element. Those that mean nothing are not recorded.
pub struct Element {
    pub name: Vec<u8>,
    pub role: Role,
    pub is_skipped: bool,
    pub is_scope: bool,
    /// Items of a list so far.
    pub items: u32,
}

/// What an element means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Part of a line.
    Inline,
    /// Has no content.
    Void,
    /// On lines of its own.
    Line,
    /// Between empty lines.
    Block,
    Heading(u8),
    Preformatted,
    List,
    Item,
    Table,
    Row,
    Cell,
    /// Its content is not text for readers.
    Never,
    /// Its content is not the page's own.
    Boilerplate,
}

impl Role {
    /// Whether its start ends a paragraph.
    pub fn is_block(self) -> bool {
        !matches!(self, Self::Inline | Self::Void | Self::Never)
    }
}

/// Returns the role of an element, by its name in lower case.
pub fn role(name: &[u8]) -> Role {
    match name {
        b"br" | b"hr" | b"img" | b"input" | b"meta" | b"link" | b"area" | b"base" | b"col" | b"embed" | b"source"
        | b"track" | b"wbr" => Role::Void,
        b"h1" => Role::Heading(1),
        b"h2" => Role::Heading(2),
        b"h3" => Role::Heading(3),
        b"h4" => Role::Heading(4),
        b"h5" => Role::Heading(5),
        b"h6" => Role::Heading(6),
        b"p" | b"section" | b"article" | b"main" | b"blockquote" | b"dl" | b"figure" | b"details" | b"fieldset" => {
            Role::Block
        }
        b"div" | b"header" | b"dt" | b"dd" | b"figcaption" | b"caption" | b"summary" | b"address" | b"legend"
        | b"form" | b"body" | b"html" | b"center" => Role::Line,
        b"pre" => Role::Preformatted,
        b"ul" | b"ol" | b"menu" => Role::List,
        b"li" => Role::Item,
        b"table" => Role::Table,
        b"tr" => Role::Row,
        b"td" | b"th" => Role::Cell,
        b"script" | b"style" | b"title" | b"noscript" | b"template" | b"svg" | b"math" | b"iframe" | b"object"
        | b"canvas" | b"audio" | b"video" | b"select" | b"button" | b"textarea" | b"datalist" => Role::Never,
        b"nav" | b"aside" | b"footer" => Role::Boilerplate,
        _ => Role::Inline,
    }
}
