"""The command line's words in 简体中文: of assistants."""

from __future__ import annotations

ASSISTANTS = {
    # allod --help
    "List the assistants, look at one, make, change or share one, bring a version back.": (
        "列出助手；查看、创建、更改或分享一个，恢复旧版本。"
    ),
    # commands
    "List the assistants; * is the default one.": "列出助手；* 为默认助手。",
    "Make one.": "创建一个。",
    "Change what is named, which makes a new version.": "更改指定的内容，并生成新版本。",
    "Make a copy of one: NAME [NEW NAME]": "复制一个：NAME [NEW NAME]",
    "Delete one with all its versions.": "删除一个及其全部版本。",
    "Make one the default: it answers where a chat names none.": "设为默认：对话未指定助手时由它回答。",
    "List all versions of one, newest first.": "列出一个助手的全部版本，最新的在前。",
    "Say what changed between two versions of one: NAME [FROM] [TO]": "说明两个版本之间的变化：NAME [FROM] [TO]",
    "Bring an old version back, as a new one: NAME VERSION": "把旧版本恢复为新版本：NAME VERSION",
    "Write one into a file, or to stdout: NAME [FILE]": "把一个助手写入文件或标准输出：NAME [FILE]",
    "Make one from an exported file; - reads it from stdin.": "用导出的文件创建一个；- 表示从标准输入读取。",
    "Explain the presets.": "解释各个预设。",
    # options
    "What the model reads first; - reads it from stdin. {user_name}, {date} and {time} are filled in.": (
        "模型最先读到的内容；- 表示从标准输入读取。{user_name}、{date} 和 {time} 会被填入。"
    ),
    "What it is for.": "它的用途。",
    "An emoji, or a few letters.": "一个表情符号，或几个字。",
    "precise, balanced or creative: see `allod assistants presets`.": (
        "precise、balanced 或 creative：见 `allod assistants presets`。"
    ),
    'A tool that it may use; may be repeated. "": none.': '它可以使用的工具；可重复。""：没有。',
    'Knowledge that it may look up; may be repeated. "": none.': '它可以查阅的知识；可重复。""：没有。',
    'A text to begin a chat with; may be repeated. "": none.': '用来开始对话的文字；可重复。""：没有。',
    "Its chats leave no trace.": "它的对话不留痕迹。",
    "As it was in this version.": "显示这个版本时的样子。",
    "Its new name.": "新名称。",
    # tables and facts
    "CHANGED": "变更时间",
    "CHANGED FIELDS": "变更的字段",
    "RESTORED FROM": "恢复自",
    "default": "默认",
    "version": "版本",
    "model": "模型",
    "preset": "预设",
    "parameters": "参数",
    "tools": "工具",
    "knowledge": "知识",
    "starters": "开场白",
    "memory-only": "仅在内存",
    "yes": "是",
    # what was done
    "Made the assistant {name}.": "已创建助手 {name}。",
    "Deleted the assistant {name}.": "已删除助手 {name}。",
    "Delete {name} with {version} version(s)? [y/N]": "删除 {name} 及其 {version} 个版本？[y/N]",
    "{name} is the default assistant.": "{name} 是默认助手。",
    "{name} is at version {version} now.": "{name} 现在是版本 {version}。",
    "{name} was so already: version {version}.": "{name} 已是如此：版本 {version}。",
    "Versions {first} and {second} are the same.": "版本 {first} 与 {second} 相同。",
    "Wrote {path}.": "已写入 {path}。",
    # failures
    "Nothing was named that is to change.": "没有指定要更改的内容。",
    "`allod assistants edit --help` lists what can.": "`allod assistants edit --help` 列出可更改的内容。",
    "{path} cannot be read: {reason}.": "{path} 无法读取：{reason}。",
    "{path} is not JSON.": "{path} 不是 JSON。",
    "`allod assistants export NAME FILE` writes such a file.": "`allod assistants export NAME FILE` 会写出这样的文件。",
}
