// What the sample product shows: made-up customers and invoices of two tenants.

const invoice = (number, customer, plan, amount, due, status) => ({ number, customer, plan, amount, due, status });

/** @typedef {ReturnType<typeof invoice>} Invoice */

/** @type {Record<string, { company: string, currency: string, invoices: Invoice[] }>} */
export const BOOKS = {
  acme: {
    company: "Acme Workspaces",
    currency: "EUR",
    invoices: [
      invoice("2026-1046", "Lumen Bakery", "Team, 12 seats", 348, "2026-12-14", "open"),
      invoice("2026-1045", "Orbit Cycles", "Business, 40 seats", 1960, "2026-12-10", "open"),
      invoice("2026-1044", "Saltmarsh Hotels", "Business, 85 seats", 4165, "2026-11-21", "overdue"),
      invoice("2026-1043", "Petal Post", "Team, 6 seats", 174, "2026-11-18", "paid"),
      invoice("2026-1042", "Ada Customer", "Starter, charged twice", 49, "2026-11-12", "disputed"),
      invoice("2026-1041", "Fjord & Finch", "Team, 20 seats", 580, "2026-11-05", "paid"),
    ],
  },
  globex: {
    company: "Globex Freight",
    currency: "USD",
    invoices: [
      invoice("G-20318", "Harbour Nine", "Fleet, 14 trucks", 6720, "2026-12-18", "open"),
      invoice("G-20317", "Cobalt Foods", "Cold chain, 9 routes", 11340, "2026-12-02", "open"),
      invoice("G-20316", "Birch & Sons", "Parcel, 1,900 labels", 2185, "2026-11-16", "overdue"),
      invoice("G-20315", "Meridian Labs", "Courier, 62 trips", 3038, "2026-11-09", "paid"),
    ],
  },
};

/** Sums what a status line says: by status, in the tenant's currency. */
export function totals(invoices) {
  const sum = (statuses) =>
    invoices.filter(({ status }) => statuses.includes(status)).reduce((total, { amount }) => total + amount, 0);
  return { outstanding: sum(["open", "overdue", "disputed"]), overdue: sum(["overdue"]), paid: sum(["paid"]) };
}
