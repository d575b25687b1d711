"""The command line's words in 简体中文: of its first commands, and together with all others.

What is of extensions, settings, jobs, events, keys and the store is in chinese_house.py; what is of assistants in
chinese_assistants.py; what is of conversations in chinese_threads.py.
"""

from __future__ import annotations

from allod.cli.chinese_assistants import ASSISTANTS
from allod.cli.chinese_house import HOUSE
from allod.cli.chinese_threads import THREADS

CHINESE = {
    **HOUSE,
    **ASSISTANTS,
    **THREADS,
    # allod --help
    "A private AI assistant that runs wholly on this machine.": "完全在本机运行的私人 AI 助手。",
    "Start the server; Ctrl-C stops it and all that it started.": "启动服务器；按 Ctrl-C 停止它和它启动的一切。",
    "Talk with a model.": "与模型对话。",
    "Print the answer to a prompt, and nothing else, on stdout. What is piped in comes after the prompt.": (
        "在标准输出上只打印对提示的回答。管道输入接在提示之后。"
    ),
    "List the models on this machine, add or remove one.": "列出本机的模型，添加或移除一个。",
    "Show the models in memory.": "显示内存中的模型。",
    "Load a model into the running server's memory.": "把模型载入正在运行的服务器的内存。",
    "Unload a model once its answers have ended.": "待回答结束后卸载一个模型。",
    "List the API keys, make or remove one.": "列出 API 密钥，创建或移除一个。",
    "Say what this machine has and what to do about each problem.": "说明本机的情况，以及如何解决每个问题。",
    "Measure a model: speed by context length, load time, memory.": "测量模型：各上下文长度的速度、载入时间、内存。",
    "Print the version.": "打印版本。",
    # options
    "Print JSON.": "输出 JSON。",
    "Speak to this server (or ALLOD_URL).": "使用这个服务器（或 ALLOD_URL）。",
    "The model that answers.": "由哪个模型回答。",
    "Instructions for the whole conversation.": "对整个对话的指示。",
    "A field of the request, such as temperature=0.2; may be repeated.": (
        "请求的一个字段，如 temperature=0.2；可重复。"
    ),
    "Say tokens per second and time to first token.": "显示每秒词元数和首个词元的时间。",
    "{pair} is not of the form NAME=VALUE.": "{pair} 不是 NAME=VALUE 的形式。",
    "The field {name} cannot be set here.": "字段 {name} 不能在这里设置。",
    # serve
    "Listen here; may be repeated. Default: this machine only.": "监听的地址；可重复。默认：仅本机。",
    "Default: 1337, or ALLOD_PORT. 0: any.": "默认：1337 或 ALLOD_PORT。0：任意。",
    "A GGUF file to serve as the default model.": "用作默认模型的 GGUF 文件。",
    "Certificate chain (PEM), for https.": "证书链（PEM），用于 https。",
    "The certificate's private key (PEM).": "证书的私钥（PEM）。",
    "Log warnings only.": "日志只记警告。",
    "Safe mode: start Allod's own extensions only.": "安全模式：只启动 Allod 自带的扩展。",
    "The store is locked: run `allod vault unlock`, or open {url} in a browser.": (
        "存储已锁定：运行 `allod vault unlock`，或在浏览器中打开 {url}。"
    ),
    "Allod {version} answers at {urls}. Ctrl-C stops it.": "Allod {version} 在 {urls} 应答。按 Ctrl-C 停止。",
    "Try it:": "试一试：",
    "Hello!": "你好！",
    # run
    "End the answer after N tokens.": "回答满 N 个词元即结束。",
    "There is no prompt.": "没有提示。",
    'Write `allod run "…"` or pipe text into it.': '请写 `allod run "…"`，或用管道输入文字。',
    # system
    "Say what this machine is, which versions run, what takes how much disk.": (
        "说明本机的情况、运行的版本，以及磁盘占用。"
    ),
    "List the licences of all that Allod runs on, or show one's texts.": (
        "列出 Allod 所依赖的一切的许可证，或显示其中一个的全文。"
    ),
    "system": "系统",
    "processor": "处理器",
    "{name}, {cores} cores, {threads} threads": "{name}，{cores} 个核心，{threads} 个线程",
    "memory": "内存",
    "{free} of {total} available": "可用 {free}，共 {total}",
    "libraries": "程序库",
    "data folder": "数据文件夹",
    "takes": "占用",
    "free": "剩余",
    "runs for": "已运行",
    "Not counted, because they may not be looked at: {count}": "因无权查看而未计入：{count} 项",
    "PACKAGE": "软件包",
    "VERSION": "版本",
    "LICENCE": "许可证",
    "HOMEPAGE": "主页",
    # chat
    "Keep nothing of what is typed in this chat.": "不保存本次对话中输入的任何内容。",
    "/help lists the commands, Ctrl-D leaves": "/help 列出命令，Ctrl-D 离开",
    "(stopped)": "（已停止）",
    "(stopped before the answer began; the question is dropped)": "（回答开始前已停止；问题已丢弃）",
    "(cut: the answer reached its longest length; /set max_tokens N allows more)": (
        "（已截断：回答达到最大长度；/set max_tokens N 可放宽）"
    ),
    "There is no command {name}.": "没有命令 {name}。",
    "/help lists them. To send a message that begins with a slash, put a space before it.": (
        "/help 列出所有命令。要发送以斜杠开头的消息，请在前面加一个空格。"
    ),
    "{model} answers from now on.": "从现在起由 {model} 回答。",
    "There is no model {name}.": "没有模型 {name}。",
    "Known are: {names}": "已知的有：{names}",
    "These are the instructions from now on.": "从现在起按此指示。",
    "There are no instructions.": "没有指示。",
    "There are no instructions any more.": "不再有指示。",
    "{name} is not set.": "{name} 未设置。",
    "/set NAME VALUE sets a field of the request.": "/set NAME VALUE 设置请求的一个字段。",
    "Nothing is set; the model's own settings hold.": "没有设置；使用模型自己的设置。",
    "Figures are no longer shown.": "不再显示数据。",
    "Figures are shown after each answer from now on.": "从现在起在每个回答后显示数据。",
    "The conversation begins anew.": "对话重新开始。",
    "/save needs the name of a file.": "/save 需要文件名。",
    "Its ending .json gives JSON, any other Markdown.": "以 .json 结尾存为 JSON，否则存为 Markdown。",
    "Saved to {path}.": "已存到 {path}。",
    "{path} exists already.": "{path} 已存在。",
    "Choose another name.": "请换一个名字。",
    "{path} cannot be written: {reason}.": "无法写入 {path}：{reason}。",
    "Instructions": "指示",
    "You": "你",
    "list the models, or choose the one that answers": "列出模型，或选择由哪个回答",
    "set a field of the request (temperature 0.2), or unset it": (
        "设置请求的一个字段（temperature 0.2），或取消设置"
    ),
    "show figures after each answer, or no longer": "在每个回答后显示数据，或不再显示",
    "write the conversation to a file (.json or Markdown)": "把对话写入文件（.json 或 Markdown）",
    "leave": "离开",
    "stop the answer; what has come of it stays": "停止回答；已有的部分保留",
    "a new line in the message": "在消息中换行",
    # figures
    "first token after {time}": "首个词元 {time}",
    "prompt": "提示",
    "answer": "回答",
    "({tokens} from the cache)": "（{tokens} 个来自缓存）",
    "{tokens} tokens": "{tokens} 个词元",
    "tokens/s": "词元/秒",
    # while waiting
    "loading {model}": "正在载入 {model}",
    "reading the prompt, {tokens} tokens": "正在读提示，{tokens} 个词元",
    # models, ps, load, unload
    "MODEL": "模型",
    "SIZE": "大小",
    "QUANTIZATION": "量化",
    "CONTEXT": "上下文",
    "CAN": "能力",
    "STATE": "状态",
    "MEMORY": "内存",
    "RUNNING": "进行中",
    "WAITING": "等待",
    "UNLOADS IN": "卸载倒计时",
    "never": "从不",
    "List all models.": "列出所有模型。",
    "Use a GGUF file where it lies.": "就地使用一个 GGUF 文件。",
    "Forget a model that was added; its file stays.": "忘掉添加过的模型；文件保留。",
    "No model is here yet. `allod models add PATH` adds a GGUF file.": (
        "还没有模型。`allod models add PATH` 添加一个 GGUF 文件。"
    ),
    "Added {model}. The file stays where it is.": "已添加 {model}。文件留在原处。",
    "Removed {model}. Its file stays where it is.": "已移除 {model}。文件留在原处。",
    "No model is in memory.": "内存中没有模型。",
    "{model} is in memory ({time}).": "{model} 已在内存中（{time}）。",
    "{model} is no longer in memory.": "{model} 已不在内存中。",
    "Unload after this idle time: 90s, 10m, 2h; -1: never.": "空闲这么久后卸载：90s、10m、2h；-1：从不。",
    "Never unload it to make room for another.": "不为给别的模型腾地方而卸载它。",
    "{time} is not a time.": "{time} 不是时间。",
    "Write it like 90s, 10m or 2h.": "请写成 90s、10m 或 2h。",
    # keys
    "ID": "编号",
    "NAME": "名称",
    "CREATED": "创建时间",
    "List all keys; the keys themselves are not kept.": "列出所有密钥；密钥本身不保存。",
    "Make a key; it is shown this once.": "创建密钥；只显示这一次。",
    "Make a key worthless, at once.": "立即作废一个密钥。",
    "There is no API key. `allod keys create NAME` makes one.": "没有 API 密钥。`allod keys create NAME` 创建一个。",
    (
        "Keep it now, it is not shown again. "
        "Programs send it as `Authorization: Bearer`, `allod` takes it from ALLOD_API_KEY."
    ): "请现在保存，它不会再显示。程序以 `Authorization: Bearer` 发送它，`allod` 从 ALLOD_API_KEY 读取它。",
    "Removed the key {key}.": "已移除密钥 {key}。",
    # doctor
    "{port} cannot be used: {reason}": "{port} 不能用：{reason}",
    "Choose another: `allod serve --port`, or ALLOD_PORT.": "请换一个：`allod serve --port` 或 ALLOD_PORT。",
    "{port} is free; no server is running": "{port} 空闲；没有正在运行的服务器",
    "All is well.": "一切正常。",
    "To look at: {count}": "需要留意：{count} 项",
    # bench
    "Runs for each length; their median counts.": "每个长度测几次；取中位数。",
    "Longest context to measure, in tokens.": "测到的最长上下文（词元数）。",
    "Tokens to generate in each run.": "每次生成的词元数。",
    "{model} is answering someone else just now.": "{model} 正在回答别人。",
    "Measure when nothing else runs.": "请在没有别的任务时测量。",
    "measuring {length} tokens …": "正在测 {length} 个词元……",
    "This server's answers carry no timings, so it cannot be measured.": "这个服务器的回答不带计时，无法测量。",
    "context": "上下文",
    "load time": "载入时间",
    "memory after loading": "载入后内存",
    "after the longest prompt": "最长提示后",
    "PROMPT TOKENS": "提示词元",
    "PROMPT TOKENS/S": "提示词元/秒",
    "ANSWER TOKENS/S": "回答词元/秒",
    "FIRST TOKEN": "首个词元",
    # which server
    "starting a server …": "正在启动服务器……",
    "No server is running.": "没有正在运行的服务器。",
    "`allod serve` starts one; --url or ALLOD_URL names another.": (
        "`allod serve` 启动一个；--url 或 ALLOD_URL 指定另一个。"
    ),
    "Note: what you write travels to {url} unencrypted.": "注意：你写的内容会不加密地传到 {url}。",
    "A server could not be started. It said:": "无法启动服务器。它说：",
    "`allod serve` shows the same with all details.": "`allod serve` 会显示全部细节。",
    "A server was started, but is not ready after {seconds} s.": "服务器已启动，但 {seconds} 秒后仍未就绪。",
    "{url} is not the address of a server.": "{url} 不是服务器的地址。",
    "Write it like http://127.0.0.1:1337.": "请写成 http://127.0.0.1:1337。",
    "The server at {url} cannot be reached: {reason}.": "连不上 {url} 的服务器：{reason}。",
    "Is it running? `allod serve` starts one; --url or ALLOD_URL names another.": (
        "它在运行吗？`allod serve` 启动一个；--url 或 ALLOD_URL 指定另一个。"
    ),
    # errors
    "Error: {detail}": "错误：{detail}",
    "The answer broke off: the server closed the connection before its end.": (
        "回答中断：服务器在回答结束前关闭了连接。"
    ),
    "Ask again; the server's log may say more.": "请再问一次；服务器的日志可能有更多信息。",
    "The server sent something that is not an event of a stream.": "服务器发来的不是流中的事件。",
    "Put an API key into the environment variable ALLOD_API_KEY; `allod keys create NAME` makes one.": (
        "请把 API 密钥放入环境变量 ALLOD_API_KEY；`allod keys create NAME` 创建一个。"
    ),
    "The server reported an error without words.": "服务器报告了一个没有说明的错误。",
    "The server answered with status {status}.": "服务器以状态 {status} 应答。",
    "Something unexpected happened ({error}).": "发生了意外（{error}）。",
    "This is a mistake in Allod: please report it.": "这是 Allod 的错误：请报告。",
}
