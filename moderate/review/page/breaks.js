// How long somebody has worked without a break, and how much of it was severe.

const REST_SECONDS = 300; // so long without a key or click is a break
const IDLE_SECONDS = 60; // what is longer than this does not count as work
const SEVERE = 25;

export class Breaks {
  minutes = 30;
  #worked = 0;
  #last = Date.now();
  #severe = null;
  #severeAtBreak = 0;

  // Something was done; whether a break is due.
  active() {
    const now = Date.now();
    const gap = (now - this.#last) / 1000;
    this.#last = now;
    if (gap >= REST_SECONDS) this.rested();
    else this.#worked += Math.min(gap, IDLE_SECONDS);
  }

  severe(count) {
    if (this.#severe === null) this.#severeAtBreak = count;
    this.#severe = count;
  }

  rested() {
    this.#worked = 0;
    this.#severeAtBreak = this.#severe ?? 0;
  }

  // Why a break is due; null where none is.
  due() {
    const severe = (this.#severe ?? 0) - this.#severeAtBreak;
    const minutes = Math.round(this.#worked / 60);
    if (this.#worked < this.minutes * 60 && severe < SEVERE) return null;
    return `You have worked for ${minutes} minutes and seen ${severe} severe images since the last break.`;
  }
}
