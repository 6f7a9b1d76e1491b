//! Comma-separated values: each row becomes lines of `column: value`, so that every chunk names its columns.

use super::error::ExtractError;
use super::limits::Limits;
use super::markdown::clean;
use super::marks::Extracted;

/// Separators that are recognised: the one that the first line has most often.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Extracts rows. The first one names the columns.
pub fn extract(text: &str, limits: &Limits) -> Result<Extracted, ExtractError> {
    let mut rows = csv::ReaderBuilder::new()
        .delimiter(separator(text))
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut row = csv::StringRecord::new();
    let mut columns: Option<Vec<String>> = None;
    let mut output = String::new();
    while rows.read_record(&mut row).map_err(|_| ExtractError::Damaged)? {
        match &columns {
            Some(columns) => write(&mut output, columns, &row),
            None => columns = Some(row.iter().map(clean).collect()),
        }
        if output.len() > limits.text_bytes {
            return Err(ExtractError::TooLarge);
        }
    }
    if output.is_empty() {
        // A list of names, or of nothing.
        output = columns.unwrap_or_default().join("\n");
    }
    Ok(Extracted {
        text: output,
        ..Extracted::default()
    })
}

fn write(output: &mut String, columns: &[String], row: &csv::StringRecord) {
    let mut is_first = true;
    for (index, value) in row.iter().enumerate() {
        if value.trim().is_empty() {
            continue;
        }
        if is_first && !output.is_empty() {
            output.push('\n');
        }
        is_first = false;
        match columns.get(index).filter(|column| !column.is_empty()) {
            Some(column) => output.push_str(column),
            None => output.push_str(&format!("column {}", index + 1)),
        }
        output.push(':');
        for word in value.split_whitespace() {
            output.push(' ');
            output.push_str(word);
        }
        output.push('\n');
    }
}

fn separator(text: &str) -> u8 {
    let (mut counts, mut is_quoted) = ([0_usize; SEPARATORS.len()], false);
    for byte in text.bytes() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\n' if !is_quoted => break,
            _ if is_quoted => {}
            _ => {
                if let Some(index) = SEPARATORS.iter().position(|separator| *separator == byte) {
                    counts[index] += 1;
                }
            }
        }
    }
    // The first one of equals.
    let most = (0..SEPARATORS.len()).rev().max_by_key(|index| counts[*index]);
    most.map_or(b',', |index| SEPARATORS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_name_their_columns() {
        for (content, expected) in [
            (
                "name,price\nPro,5\nBasic,0\n",
                "name: Pro\nprice: 5\n\nname: Basic\nprice: 0\n",
            ),
            (
                "name;price\r\n\"a; \"\"b\"\"\nc\";1,5\r\n",
                "name: a; \"b\" c\nprice: 1,5\n",
            ),
            (
                "a\tb\n1\t\n\t2\n\n3\t4\t5\n",
                "a: 1\n\nb: 2\n\na: 3\nb: 4\ncolumn 3: 5\n",
            ),
            ("only\n", "only"),
            ("", ""),
            ("\"a\nb\",c\n1,2", "a b: 1\nc: 2\n"),
        ] {
            let extracted = extract(content, &Limits::default()).unwrap();
            assert_eq!(extracted.text, expected, "{content}");
        }
    }

    #[test]
    fn repeated_names_are_bounded() {
        let content = format!("{}\n{}", "n".repeat(300), "x\n".repeat(1_000));
        let limits = Limits {
            text_bytes: 10_000,
            ..Limits::default()
        };
        assert_eq!(extract(&content, &limits), Err(ExtractError::TooLarge));
    }
}
