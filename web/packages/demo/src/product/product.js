// The sample product: a billing page of the tenant, with the copilot in it. What it shows is made up; the open tickets
// are those of the tenant's simulated Zendesk.

import { el, keyed, setText } from "../dom.js";
import { BOOKS, totals } from "./data.js";

export class Product {
  #parts;
  #ask;
  #tenant = null;
  #money;

  /** `ask` sends a question to the copilot. */
  constructor({ ask, ...parts }) {
    this.#parts = parts;
    this.#ask = ask;
  }

  /** Shows a tenant's books; a tenant without any is shown the first one's. */
  show(tenant) {
    if (tenant === this.#tenant) return;
    this.#tenant = tenant;
    const { company, currency, invoices } = this.#books;
    const money = (amount, digits = 2) => {
      const fraction = { minimumFractionDigits: digits, maximumFractionDigits: digits };
      return amount.toLocaleString("en", { style: "currency", currency, ...fraction });
    };
    this.#money = money;
    this.#close();
    const { outstanding, overdue, paid } = totals(invoices);
    setText(this.#parts.company, company);
    setText(this.#parts.outstanding, money(outstanding, 0));
    setText(this.#parts.overdue, money(overdue, 0));
    setText(this.#parts.paid, money(paid, 0));
    setText(this.#parts.tickets, "…");
    keyed(
      this.#parts.rows,
      invoices,
      ({ number }) => `${tenant}/${number}`,
      (invoice) => this.#row(invoice, money),
    );
  }

  /** Shows how many tickets wait for an answer. */
  tickets(tickets) {
    setText(this.#parts.tickets, String(tickets.filter(({ status }) => status === "new" || status === "open").length));
  }

  /** Opens an invoice, and returns what it shows. Throws if there is none of that number. */
  open(number) {
    const invoice = this.#books.invoices.find((invoice) => invoice.number === number);
    if (!invoice) throw new Error(`there is no invoice ${number} on this page`);
    const { customer, plan, amount, due, status } = invoice;
    const lines = { Customer: customer, Plan: plan, Amount: this.#money(amount), Due: dateOf(due), Status: status };
    this.#parts.invoice.replaceChildren(
      el("h3", { text: `Invoice ${number}` }),
      el("button", { type: "button", class: "small", text: "Close", onclick: () => this.#close() }),
      el(
        "dl",
        {},
        ...Object.entries(lines).map(([name, text]) => el("div", {}, el("dt", { text: name }), el("dd", { text }))),
      ),
    );
    this.#parts.invoice.hidden = false;
    this.#mark(number);
    this.#parts.invoice.scrollIntoView({ block: "nearest" });
    return invoice;
  }

  #close() {
    this.#parts.invoice.hidden = true;
    this.#mark(null);
  }

  /** Marks the row of the invoice that is open. */
  #mark(number) {
    for (const row of this.#parts.rows.children) {
      if (row.dataset.number === number) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  /** The invoice that the page offers to open. */
  get example() {
    return this.#books.invoices.find(({ status }) => status === "overdue");
  }

  get #books() {
    return BOOKS[this.#tenant] ?? Object.values(BOOKS)[0];
  }

  #row({ number, customer, plan, amount, due, status }, money) {
    const onclick = () => this.#ask(`Is there a ticket about invoice ${number}?`);
    const label = `Ask the copilot about ${number}`;
    return el(
      "tr",
      { data: { number } },
      el("th", { scope: "row", text: number }),
      el("td", {}, el("span", { class: "customer", text: customer }), el("span", { class: "plan", text: plan })),
      el("td", {}, el("span", { class: "badge", data: { status }, text: status })),
      el("td", { class: "due", text: dateOf(due) }),
      el("td", { class: "amount", text: money(amount) }),
      el(
        "td",
        { class: "do" },
        el("button", { type: "button", class: "small", "aria-label": label, text: "Ask", onclick }),
      ),
    );
  }
}

/** A day, as the page writes it. */
function dateOf(day) {
  /** @type {Intl.DateTimeFormatOptions} */
  const form = { day: "numeric", month: "short", year: "numeric" };
  return new Date(`${day}T00:00:00`).toLocaleDateString("en", form);
}
