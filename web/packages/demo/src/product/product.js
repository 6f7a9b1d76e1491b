// The sample product: a billing page of the tenant, with the copilot in it. What it shows is made up; the open tickets
// are those of the tenant's simulated Zendesk.

import { el, keyed, setText } from "../dom.js";
import { BOOKS, totals } from "./data.js";

export class Product {
  #parts;
  #ask;
  #tenant = null;

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

  get #books() {
    return BOOKS[this.#tenant] ?? Object.values(BOOKS)[0];
  }

  #row({ number, customer, plan, amount, due, status }, money) {
    /** @type {Intl.DateTimeFormatOptions} */
    const form = { day: "numeric", month: "short", year: "numeric" };
    const date = new Date(`${due}T00:00:00`).toLocaleDateString("en", form);
    const onclick = () => this.#ask(`Is there a ticket about invoice ${number}?`);
    const label = `Ask the copilot about ${number}`;
    return el(
      "tr",
      { data: { number } },
      el("th", { scope: "row", text: number }),
      el("td", {}, el("span", { class: "customer", text: customer }), el("span", { class: "plan", text: plan })),
      el("td", {}, el("span", { class: "badge", data: { status }, text: status })),
      el("td", { class: "due", text: date }),
      el("td", { class: "amount", text: money(amount) }),
      el(
        "td",
        { class: "do" },
        el("button", { type: "button", class: "small", "aria-label": label, text: "Ask", onclick }),
      ),
    );
  }
}
