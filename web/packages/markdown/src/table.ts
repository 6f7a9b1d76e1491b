// Rows of tables.

/** A table wider than this is text. */
const MAX_COLUMNS = 64;

export type Alignment = "" | "left" | "center" | "right";

/** Splits a row at its pipes, except escaped ones; what is left after `columns` cells stays in the last. */
export function cellsOf(row: string, columns: number): string[] {
  const cells: string[] = [];
  let text = row.trim();
  if (text.startsWith("|")) text = text.slice(1);
  if (text.endsWith("|") && !text.endsWith("\\|")) text = text.slice(0, -1);
  let from = 0;
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "|" && cells.length + 1 < columns) {
      cells.push(text.slice(from, at));
      from = at + 1;
    }
  }
  cells.push(text.slice(from));
  return cells.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** Reads a delimiter row, as `| --- | :-: |`. */
export function alignments(row: string): Alignment[] | undefined {
  if (!/^[-:| \t]+$/.test(row) || !row.includes("-") || !row.includes("|")) return undefined;
  const cells = cellsOf(row, Infinity);
  if (cells.length > MAX_COLUMNS || !cells.every((cell) => /^:?-+:?$/.test(cell))) return undefined;
  return cells.map((cell) => {
    const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
    return left && right ? "center" : right ? "right" : left ? "left" : "";
  });
}
