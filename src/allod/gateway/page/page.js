"use strict";
// The first page of a browser: takes the token of `allod open`, or a passphrase where the store is locked.

const KEY = "allod-session";
const CHINESE = {
  "Welcome in.": "欢迎进入。",
  "This browser may use Allod: its session lasts 30 days from its last use.": "此浏览器可以使用 Allod：会话自最后一次使用起保持 30 天。",
  "No other machine could open your store, or a backup of it, yet. To have a recovery code for that:": "目前还没有其他机器能打开你的存储或其备份。要为此生成恢复码：",
  "To get in, run this in a terminal:": "要进入，请在终端运行：",
  "The store is locked.": "存储已锁定。",
  "Passphrase or recovery code": "密码短语或恢复码",
  "Unlock": "解锁",
  "The server cannot be reached.": "无法连接到服务器。",
  "What programs can do here": "程序在这里能做什么",
};
const isChinese = navigator.language.toLowerCase().startsWith("zh");
const say = (text) => (isChinese && CHINESE[text]) || text;
const at = (id) => document.getElementById(id);

const tell = (text, command) => {
  at("said").textContent = text;
  if (command) {
    const code = document.createElement("code");
    code.textContent = command;
    at("said").append(document.createElement("br"), code);
  }
};

const ask = async (method, path, body) => {
  const headers = { "Content-Type": "application/json" };
  const half = localStorage.getItem(KEY);
  if (half) headers["Allod-Session"] = half;
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  return { status: answer.status, body: await answer.json().catch(() => ({})) };
};

const takeToken = async () => {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return null;
  history.replaceState(null, "", location.pathname); // the token stands in no history
  const { status, body } = await ask("POST", "/api/sessions/open", { token });
  if (status === 201) localStorage.setItem(KEY, body.header);
  return status === 201 ? null : body;
};

const show = async () => {
  const refused = await takeToken();
  const { status, body } = await ask("GET", "/api/vault");
  at("unlock").hidden = true;
  if (status === 200) {
    const welcome = `${say("Welcome in.")} ${say("This browser may use Allod: its session lasts 30 days from its last use.")}`;
    if (body.opens_elsewhere) return tell(welcome);
    return tell(`${welcome} ${say("No other machine could open your store, or a backup of it, yet. To have a recovery code for that:")}`, "allod vault add recovery");
  }
  const ready = await ask("GET", "/health/ready");
  if (ready.body.status === "locked") {
    at("unlock").hidden = false;
    at("secret").focus();
    return tell(say("The store is locked."));
  }
  tell(refused ? `${refused.detail} ${say("To get in, run this in a terminal:")}` : say("To get in, run this in a terminal:"), "allod open");
};

const unlock = async (event) => {
  event.preventDefault();
  at("go").disabled = true;
  const { status, body } = await ask("POST", "/api/vault/unlock", { secret: at("secret").value, session: true });
  at("go").disabled = false;
  at("secret").value = "";
  if (status !== 201) return tell(`${body.detail} ${body.fix}`);
  localStorage.setItem(KEY, body.session.header);
  await show();
};

document.documentElement.lang = isChinese ? "zh-CN" : "en";
at("ask").textContent = say("Passphrase or recovery code");
at("go").textContent = say("Unlock");
const link = document.createElement("a");
link.href = "/docs";
link.textContent = say("What programs can do here");
at("more").append(link);
at("unlock").addEventListener("submit", unlock);
show().catch(() => tell(say("The server cannot be reached.")));
