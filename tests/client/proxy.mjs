// Commands for tests/client/proxy.py, from a program in Node or in a browser's harness.

/** The proxy whose `control` address is given. Each command returns `{handshakes, open}`. */
export class Proxy {
  constructor(control) {
    this.control = control;
  }

  /** Send one command: cut, delay, freeze, refuse, resume, state. */
  async command(name, query = {}) {
    const response = await fetch(`${this.control}${name}?${new URLSearchParams(query)}`);
    return response.json();
  }

  cut() {
    return this.command("cut");
  }

  delay(seconds) {
    return this.command("delay", { seconds });
  }

  freeze() {
    return this.command("freeze");
  }

  refuse() {
    return this.command("refuse");
  }

  resume() {
    return this.command("resume");
  }

  state() {
    return this.command("state");
  }
}
