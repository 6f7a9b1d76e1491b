// Keeps the outbox's messages in IndexedDB: for workers, and for pages whose `localStorage` is full or blocked.

import type { OutboxStorage } from "./outbox.js";

const STORE = "messages";

/** Makes a storage in a database of that name. The database is opened when it is first used. */
export function indexedDbStorage(name = "copilotd"): OutboxStorage {
  let opened: Promise<IDBDatabase> | undefined;

  function open(): Promise<IDBDatabase> {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => void request.result.createObjectStore(STORE);
    return settle(request).then((database) => {
      // Another tab wants to delete or change the database; it is opened again when it is needed.
      database.onclose = database.onversionchange = () => {
        database.close();
        opened = undefined;
      };
      return database;
    });
  }

  /** Resolves once the transaction is stored, not only requested. */
  async function run<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
    opened ??= open().catch((error) => {
      opened = undefined;
      throw error;
    });
    const transaction = (await opened).transaction(STORE, mode);
    const done = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
    });
    const result = work(transaction.objectStore(STORE));
    await done;
    return result.result;
  }

  return {
    keys: () => run("readonly", (store) => store.getAllKeys() as IDBRequest<string[]>),
    getItem: async (key) => (await run<string | undefined>("readonly", (store) => store.get(key))) ?? null,
    setItem: async (key, value) => void (await run("readwrite", (store) => store.put(value, key))),
    removeItem: async (key) => void (await run("readwrite", (store) => store.delete(key))),
  };
}

function settle<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
