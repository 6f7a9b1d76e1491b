// The real server, and a proxy before it that cuts connections.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** `copilotd demo` on a directory of its own; `COPILOTD_BIN` names the program. */
export class Demo {
  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "copilotd-client-"));
    this.port = 0;
  }

  /** Starts it, after the first time on the same port and data. Resolves when it says that it is ready. */
  async start() {
    const { OPENAI_API_KEY: _, ...env } = process.env;
    const args = ["demo", "--port", String(this.port), "--data-dir", this.directory];
    this.process = spawn(process.env.COPILOTD_BIN, args, { env, stdio: ["ignore", "pipe", "ignore"] });
    this.ended = new Promise((ended) => this.process.once("exit", ended));
    await new Promise((ready, failed) => {
      this.process.once("error", failed);
      this.ended.then((code) => failed(new Error(`copilotd demo ended with ${code}`)));
      let said = "";
      this.process.stdout.setEncoding("utf8").on("data", (text) => {
        said += text;
        if (said.includes("continues where it stopped.")) ready();
      });
    });
    this.about = JSON.parse(readFileSync(join(this.directory, "demo.json"), "utf8"));
    this.url = this.about.base_url;
    this.port = Number(new URL(this.url).port);
  }

  get token() {
    return this.about.tenants.acme.users.ada;
  }

  /** Kills it as a power cut would. */
  async kill() {
    this.process.kill("SIGKILL");
    await this.ended;
  }

  async stop() {
    if (this.process.exitCode === null && this.process.signalCode === null) await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Forwards bytes to the demo. */
export class Proxy {
  #sockets = new Set();

  constructor(demo) {
    this.demo = demo;
    /** Bytes that the next connections may answer with before they are cut, one number for each. */
    this.cuts = [];
    this.connections = 0;
    this.server = net.createServer((client) => this.#connect(client));
  }

  async listen() {
    await new Promise((listening) => this.server.listen(0, "127.0.0.1", listening));
    this.url = `http://127.0.0.1:${this.server.address().port}`;
  }

  #connect(client) {
    this.connections++;
    let left = this.cuts.shift() ?? Infinity;
    const server = net.connect(this.demo.port, "127.0.0.1");
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        this.#sockets.delete(socket);
        client.destroy();
        server.destroy();
      });
    }
    client.pipe(server);
    server.on("data", (bytes) => {
      const passed = bytes.subarray(0, left);
      left -= passed.length;
      if (left > 0) return void client.write(passed);
      client.write(passed, () => client.destroy());
    });
  }

  /** Cuts every connection that is open. */
  cut() {
    for (const socket of this.#sockets) socket.destroy();
  }

  close() {
    this.cut();
    this.server.close();
  }
}
