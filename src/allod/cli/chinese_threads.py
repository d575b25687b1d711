"""The command line's words in 简体中文: of conversations that are threads."""

from __future__ import annotations

THREADS = {
    # allod --help
    "List the conversations, read, search, rename, delete, export or import them.": (
        "列出对话；阅读、搜索、改名、删除、导出或导入。"
    ),
    # commands
    "List them, the last changed first.": "列出对话，最近更改的在前。",
    "Show the end of one, or all of it.": "显示一个对话的末尾或全部。",
    "Find words in all conversations: WORD…": "在所有对话中查找词语：WORD…",
    'Give one another title: ID TITLE ("": found by the model again)': (
        '给一个对话另起标题：ID TITLE（""：由模型重新拟定）'
    ),
    "Put some into the trash, or delete them for good: ID…": "把对话放入回收站，或彻底删除：ID…",
    "Take some out of the trash: ID…": "从回收站取回对话：ID…",
    "Write one, or --all, into a file or to stdout: [ID] [FILE]": (
        "把一个对话或全部（--all）写入文件或标准输出：[ID] [FILE]"
    ),
    "Take in what was exported as JSON; - reads it from stdin.": "导入以 JSON 导出的对话；- 表示从标准输入读取。",
    # options
    "Go on with this conversation.": "继续这个对话。",
    "Go on with the last one.": "继续最近的对话。",
    "The assistant that answers.": "由哪个助手回答。",
    "In the server's memory only, and gone when you leave.": "只在服务器的内存里，离开即消失。",
    "Keep it as a thread (at a terminal the default), or let nothing but this command know of it.": (
        "保存为对话（在终端里是默认），或只有这条命令知道它。"
    ),
    "Ask it in this conversation.": "在这个对话中提问。",
    "Those put away.": "已归档的。",
    "Those in the trash.": "回收站里的。",
    "Of this project only.": "只列这个项目的。",
    "With this tag only.": "只列带这个标签的。",
    "Those before this message.": "这条消息之前的。",
    "All messages of the branch.": "分支上的全部消息。",
    "At once and for good, not into the trash.": "立即彻底删除，不放入回收站。",
    "All conversations, as JSON.": "全部对话，JSON 格式。",
    "md, json (whole, for import) or html. Default: by the file's name, else md.": (
        "md、json（完整，可导入）或 html。默认按文件名，否则为 md。"
    ),
    "The best match first, instead of the newest.": "最匹配的在前，而不是最新的。",
    "With this assistant only.": "只限这个助手的。",
    "Answers of this model only.": "只限这个模型的回答。",
    "What this side said: user or assistant.": "只限这一方说的：user 或 assistant。",
    "In this conversation only.": "只在这个对话中。",
    "From this day on: YYYY-MM-DD.": "从这一天起：YYYY-MM-DD。",
    "Up to this day, it included.": "到这一天为止（含当天）。",
    # lists and messages
    "MESSAGES": "消息",
    "MARKS": "标记",
    "Title": "标题",
    "Answer": "回答",
    "Without a title": "无标题",
    "favourite": "收藏",
    "is being answered": "正在回答",
    "is being written": "正在书写",
    "stopped": "已停止",
    "cut at its longest length": "达到最大长度而截断",
    "interrupted": "已中断",
    "error": "错误",
    "pinned": "已固定",
    "stateless": "不保存",
    "version {place} of {count}": "第 {place} 版，共 {count} 版",
    "There is no such conversation. `allod chat` begins one.": "没有这样的对话。`allod chat` 开始一个。",
    "There are more: --limit {count} shows them.": "还有更多：--limit {count} 可显示。",
    "There is more before: --before {message}, or --all.": "之前还有：--before {message}，或 --all。",
    "Nothing was found.": "没有找到。",
    # what was done
    "{thread} is called {title} now.": "{thread} 现在叫 {title}。",
    "Delete {count} for good? [y/N]": "彻底删除 {count} 个？[y/N]",
    "Deleted {thread} for good.": "已彻底删除 {thread}。",
    "{thread} is in the trash. `allod threads restore {thread}` brings it back.": (
        "{thread} 已在回收站。`allod threads restore {thread}` 可取回。"
    ),
    "Brought back: {threads}": "已取回：{threads}",
    "Took in {count}:": "已导入 {count} 个：",
    "Kept: `allod chat --thread {thread}` goes on with it.": "已保存：`allod chat --thread {thread}` 可继续。",
    # in a chat
    "The conversation begins anew. The one before is kept: {thread}": "对话重新开始。之前的已保存：{thread}",
    "begin a new conversation": "开始新的对话",
    "list the assistants, or choose the one that answers": "列出助手，或选择由哪个回答",
    "show, give or (with -) drop the instructions for the model": "显示、给出或（用 -）撤销对模型的指示",
    "go on with an answer that was stopped or cut": "继续已停止或截断的回答",
    "have the last question answered once more": "重新回答上一个问题",
    "(stopped before the answer began; /again asks once more)": "（回答开始前已停止；/again 再问一次）",
    "(cut: the answer reached its longest length; /continue goes on, /set max_tokens N allows more)": (
        "（已截断：回答达到最大长度；/continue 继续，/set max_tokens N 可放宽）"
    ),
    "(the conversation is too long for the model: it was not told of {count} earlier messages)": (
        "（对话对模型来说太长：较早的 {count} 条消息没有告诉它）"
    ),
    "waiting in line, place {place}": "正在排队，第 {place} 位",
    # failures
    "There is no answer yet.": "还没有回答。",
    "Ask something.": "请先提问。",
    "There is no assistant {name}.": "没有助手 {name}。",
    "There is no project {name}.": "没有项目 {name}。",
    "There is no conversation yet.": "还没有对话。",
    "`allod chat` begins one.": "`allod chat` 开始一个。",
    "This conversation is no thread.": "这个对话不在服务器上。",
    "`allod chat` without --stateless is one.": "不带 --stateless 的 `allod chat` 才是。",
    "The chats of {name} are never kept, and this one is.": "{name} 的对话从不保存，而这个对话会保存。",
    "Begin another: `allod chat --assistant NAME`.": "请另开一个：`allod chat --assistant NAME`。",
    "Instructions are for a whole conversation, not for one question of it.": "指示针对整个对话，而不是其中一个问题。",
    "`allod chat --thread ID --system TEXT` gives it other ones.": (
        "`allod chat --thread ID --system TEXT` 给它别的指示。"
    ),
    "--stateless knows no threads and no assistants.": "--stateless 没有保存的对话，也没有助手。",
    "Only one of --thread, --last and --memory-only can be given.": (
        "--thread、--last 和 --memory-only 只能给出一个。"
    ),
    "`allod chat --help` says what each does.": "`allod chat --help` 说明每个选项。",
    "This server keeps no conversations: its extension conversational is off.": (
        "这个服务器不保存对话：它的扩展 conversational 没有运行。"
    ),
    "`allod chat --stateless` talks without keeping anything.": "`allod chat --stateless` 可以不保存地对话。",
    "The answer was interrupted: the server ended before it was whole. What had come is kept.": (
        "回答中断：服务器在回答完成前结束了。已有的部分已保存。"
    ),
    "In `allod chat --thread {thread}`, /continue goes on with it.": (
        "在 `allod chat --thread {thread}` 中用 /continue 继续。"
    ),
    "A conversation is in the archive or in the trash.": "对话要么在归档里，要么在回收站里。",
    "{day} is not a day.": "{day} 不是日期。",
    "Write it as YYYY-MM-DD.": "请写成 YYYY-MM-DD。",
    "What is to be exported?": "要导出什么？",
    "Write `allod threads export ID [FILE]`, or `allod threads export --all [FILE]`.": (
        "请写 `allod threads export ID [FILE]` 或 `allod threads export --all [FILE]`。"
    ),
    "`allod threads export ID FILE.json` writes such a file.": "`allod threads export ID FILE.json` 会写出这样的文件。",
}
