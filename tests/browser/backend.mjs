// The example of a Node backend, beside a demo that allows its origin.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { userToken } from "../../examples/node-backend/token.mjs";

const root = resolve(import.meta.dirname, "../..");

export class Backend {
  /** Installs its dependency, as its README says, but without npm. Returns the directory of the packed clients. */
  install() {
    this.directory = mkdtempSync(join(tmpdir(), "copilotd-backend-"));
    const example = join(this.directory, "backend");
    const packages = join(this.directory, "packages");
    cpSync(join(root, "examples/node-backend"), example, { recursive: true });
    execFileSync(join(root, "scripts/pack-clients"), ["npm", packages], { timeout: 240_000 });
    const archive = readdirSync(packages).find((name) => name.startsWith("copilotd-client-"));
    const target = join(example, "node_modules/@copilotd/client");
    mkdirSync(target, { recursive: true });
    execFileSync("tar", ["-xzf", join(packages, archive), "-C", target, "--strip-components=1"]);
    return packages;
  }

  /** Starts it for a demo's first tenant, which allows its origin from then on. */
  async start(demo, environment = {}) {
    this.process = spawn(process.execPath, ["server.mjs"], {
      cwd: join(this.directory, "backend"),
      env: {
        ...process.env,
        PORT: "0",
        COPILOTD_URL: demo.url,
        COPILOTD_ISSUER: "https://acme.example",
        COPILOTD_TENANT: "acme",
        COPILOTD_SECRET_FILE: join(demo.directory, "acme.jwt.key"),
        ...environment,
      },
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.origin = await new Promise((ready, failed) => {
      this.process.once("exit", (code) => failed(new Error(`server.mjs ended with ${code}`)));
      this.process.stdout.setEncoding("utf8").on("data", (text) => {
        const address = /Open (http:\S+)\//.exec(text);
        if (address) ready(address[1]);
      });
    });
    const secret = readFileSync(join(demo.directory, "ops.jwt.key"), "utf8").trim();
    const operator = userToken({ issuer: "https://ops.example", tenant: "ops", secret, scope: "operator" }, "root");
    const allowed = await fetch(`${demo.url}/v1/operator/tenants/acme`, {
      method: "PATCH",
      headers: { authorization: `Bearer ${operator}`, "content-type": "application/json" },
      body: JSON.stringify({ settings: { allowed_origins: [this.origin] } }),
    });
    assert.equal(allowed.status, 200, await allowed.text());
  }

  stop() {
    this.process?.removeAllListeners("exit").kill();
    if (this.directory) rmSync(this.directory, { recursive: true, force: true });
  }
}
