// Requests to the server that gave this page, with the key if it wants one.
let key = sessionStorage.getItem("petiole-key") || "";
const message = document.getElementById("message");
const form = document.getElementById("key-form");

export function say(text, bad = false) {
  message.textContent = text;
  message.classList.toggle("bad", bad);
}

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) form.hidden = false;
  const error = new Error(told.error?.message || `HTTP ${answer.status}`);
  error.status = answer.status;
  throw error;
}

export const get = async (path) => (await ask(path)).json();

export const post = async (path, value) =>
  (await ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) })).json();

export async function url(path) {
  return URL.createObjectURL(await (await ask(path)).blob());
}

export function onKey(begin) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    key = document.getElementById("key").value.trim();
    sessionStorage.setItem("petiole-key", key);
    form.hidden = true;
    begin();
  });
}

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
