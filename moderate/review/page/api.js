// What the page asks of its server. Every failure is a Problem with a sentence for people.

const SECONDS = 60;

export class Problem extends Error {
  // status 0: no answer came.
  constructor(status, text, code = null) {
    super(text);
    this.status = status;
    this.code = code;
  }
}

export const pictureUrl = (row, place, size) => `/api/pictures/${row}/${place}/${size}`;

export class Api {
  #csrf = "";

  async about() {
    const about = await this.#ask("/api/session");
    this.#csrf = about.csrf;
    return about;
  }

  next(count) {
    return this.#ask(`/api/next?count=${count}`);
  }

  frames(row, again = false) {
    return this.#ask(`/api/pictures/${row}${again ? "?again=1" : ""}`);
  }

  decide(values) {
    return this.#post("/api/decide", values);
  }

  undo() {
    return this.#post("/api/undo", {});
  }

  invite(reviewer) {
    return this.#post("/api/invite", { reviewer });
  }

  #post(url, values) {
    return this.#ask(url, {
      method: "POST",
      body: JSON.stringify(values),
      headers: { "content-type": "application/json", "x-moderate-csrf": this.#csrf },
    });
  }

  async #ask(url, options = {}) {
    let response;
    let values;
    try {
      response = await fetch(url, { ...options, signal: AbortSignal.timeout(SECONDS * 1000) });
    } catch {
      throw new Problem(0, "the server does not answer; start 'moderate review' again if it has ended");
    }
    try {
      values = await response.json();
    } catch {
      values = null;
    }
    if (!response.ok || values === null) {
      const text = values?.problem ?? `the server answered with an error (${response.status})`;
      throw new Problem(response.status, text, values?.code ?? null);
    }
    return values;
  }
}

// What one decision is known by, so that sending it twice records it once.
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
