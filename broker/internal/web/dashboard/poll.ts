import { get, passing, pause } from "./api";
import { h, pill } from "./dom";
import { local } from "./time";
import { sentence } from "./words";

/**
 * poll draws the answer of a path, and asks again after the pause that draw returns, until signal.
 * While there is no answer, the page says how old its content is.
 */
export async function poll<T>(main: HTMLElement, signal: AbortSignal, path: string, draw: (answer: T) => number): Promise<void> {
  const why = h("span");
  const old = h("p", { class: "notice bad", role: "alert" }, pill("bad", "no connection"), why);
  let at: string | undefined;
  for (let ms = 0; ; await pause(ms, signal)) {
    if (signal.aborted) return;
    try {
      const answer = await get<T>(path, signal);
      at = new Date().toISOString();
      old.remove();
      ms = draw(answer);
    } catch (e) {
      if (at === undefined || signal.aborted || !passing(e)) throw e;
      const text = `${sentence(e.message)} This page is of ${local(at)}.`;
      if (why.textContent !== text) why.textContent = text;
      if (!old.isConnected) main.prepend(old);
    }
  }
}
