// What both pages share: the key, the rater, consent, requests, streams, and errors in words. Nothing here makes HTML of a text.

export const $ = (selector, root = document) => root.querySelector(selector);

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((one) => one.toString(16).padStart(2, "0")).join("");
}

export function rater() {
  let id = localStorage.getItem("gristmill.rater");
  if (!id) {
    id = randomId();
    localStorage.setItem("gristmill.rater", id);
  }
  return id;
}

export function useKey() {
  const field = $("#key");
  field.value = sessionStorage.getItem("gristmill.key") || "";
  field.addEventListener("input", () => sessionStorage.setItem("gristmill.key", field.value.trim()));
}

export class Problem extends Error {}

export async function request(path, body, signal) {
  const key = sessionStorage.getItem("gristmill.key");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = { headers, signal, cache: "no-store" };
  if (body !== undefined) {
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The gateway does not answer. Is it running, and is this computer connected to it?");
  }
  if (!answer.ok) throw new Problem(await inWords(answer));
  return answer;
}

async function inWords(answer) {
  let message = "";
  try {
    message = (await answer.json()).error.message || "";
  } catch {
    message = answer.statusText;
  }
  const seconds = answer.headers.get("Retry-After");
  if (answer.status === 401) {
    $("#settings").open = true;
    $("#key").focus();
    return `${message} This gateway asks for an API key: put yours into the field “API key” above. Who runs the gateway makes one with “gristmill keys add NAME”.`;
  }
  if (answer.status === 429) return `${message} Too many requests with this key${seconds ? `: try again in ${seconds} seconds` : "; wait a moment"}.`;
  if (answer.status === 503 || answer.status === 504) return `${message} The gateway is busy${seconds ? `: try again in ${seconds} seconds` : "; try again soon"}.`;
  return message || `The gateway answered ${answer.status}.`;
}

// The JSON objects of a stream of server-sent events.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const said = JSON.parse(data);
      if (said.error) throw new Problem(said.error.message || "The answer ended with an error.");
      yield said;
    }
  }
}

export function showProblem(error) {
  const box = $("#problem");
  box.hidden = !error;
  box.textContent = error ? error.message : "";
  if (error && !(error instanceof Problem)) console.error(error);
}

let wording = "";

export function consent() {
  const box = $("#consent");
  return { training: Boolean(box && box.checked && wording), wording };
}

export async function showConsent() {
  const section = $(".keep");
  let terms;
  try {
    terms = await (await request("/feedback")).json();
  } catch (error) {
    showProblem(error);
    return;
  }
  wording = terms.wording;
  const box = element("input", { id: "consent", type: "checkbox", checked: localStorage.getItem("gristmill.consent") === wording });
  box.setAttribute("aria-describedby", "terms");
  box.addEventListener("change", () => localStorage.setItem("gristmill.consent", box.checked ? wording : ""));
  const told = element("span", { className: "note", role: "status" });
  const forget = element("button", { type: "button", className: "plain", textContent: "Forget my votes" });
  forget.addEventListener("click", async () => {
    if (!confirm("Remove all votes of this browser, with all that was kept with them?")) return;
    try {
      const done = await (await request("/feedback/forget", { rater: rater() })).json();
      localStorage.removeItem("gristmill.rater");
      told.textContent = `${done.votes} removed.${done.exported_before ? " Some had been exported for training before; who runs the gateway can tell where." : ""}`;
    } catch (error) {
      told.textContent = error.message;
    }
  });
  section.replaceChildren(
    element("label", { className: "check" }, box, "Keep the conversation with my votes, and train models on it"),
    element("p", { id: "terms", textContent: terms.text }),
    element("div", { className: "row" }, forget, told),
  );
}

export function toldOf(kept) {
  const masked = Object.values(kept.masked).reduce((sum, one) => sum + one, 0);
  const what = kept.kept.includes("conversation") ? `kept with the conversation${kept.kept.includes("text") ? " and your words" : ""}` : "kept, without any text";
  return `Your vote is ${what}.${masked ? ` Masked in it: ${masked}.` : ""}`;
}

// Enter sends, Shift+Enter is a new line; an input method may use Enter for itself.
export function sendOnEnter(field, form) {
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
}
