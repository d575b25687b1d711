"""The command line's words in 简体中文: of extensions, settings, jobs, events, keys, egress, the store and backups."""

from __future__ import annotations

HOUSE = {
    # allod --help
    "Talk": "对话",
    "Models": "模型",
    "Server": "服务器",
    "Who may, and what is kept": "权限与数据",
    "This machine": "本机",
    "Open the running server in a browser.": "在浏览器中打开正在运行的服务器。",
    "List the settings, of one extension or of all; change one.": "列出一个或全部扩展的设置；更改设置。",
    "List the extensions, look at one, switch it on or off.": "列出扩展，查看、启用或停用一个。",
    "List the jobs, look at one, start, pause, resume, cancel or watch it.": (
        "列出任务；查看、启动、暂停、继续、取消或跟踪一个。"
    ),
    "Show what happens, a line for each event, until Ctrl-C.": "显示正在发生的事件，每个一行，直到按 Ctrl-C。",
    "List the browsers that are let in, or end one's session.": "列出获准进入的浏览器，或结束一个会话。",
    "Say what may reach the world and what has; allow, deny, go offline.": (
        "说明什么可以访问外部、什么访问过；允许、禁止或离线。"
    ),
    "Say what opens the store; unlock it, change its locks or its key.": "说明什么能打开存储；解锁，更换锁或密钥。",
    "Write all that is kept into one sealed file.": "把保存的一切写入一个密封的文件。",
    "Put what a backup holds in the place of what is here; no server may run.": (
        "用备份中的内容取代现有内容；不能有服务器在运行。"
    ),
    # tables and facts
    "STATUS": "状态码",
    "SUMMARY": "说明",
    "SETTING": "设置",
    "VALUE": "值",
    "FROM": "来源",
    "TITLE": "标题",
    "EXTENSION": "扩展",
    "JOB": "任务",
    "PROGRESS": "进度",
    "RIGHTS": "权限",
    "EXPIRES": "到期",
    "LAST USED": "上次使用",
    "BROWSER": "浏览器",
    "HOST": "主机",
    "PURPOSE": "用途",
    "HOW OFTEN": "次数",
    "SINCE": "起始时间",
    "TIME": "时间",
    "METHOD": "方法",
    "VERDICT": "裁定",
    "SENT": "发送",
    "RECEIVED": "接收",
    "KIND": "种类",
    "PROTECTS": "防范",
    "id": "编号",
    "name": "名称",
    "summary": "说明",
    "state": "状态",
    "reason": "原因",
    "next step": "下一步",
    "package": "软件包",
    "needs": "需要",
    "starts after": "后于",
    "may ask to reach": "可请求访问",
    "contributes": "提供",
    "job": "任务",
    "progress": "进度",
    "note": "备注",
    "result": "结果",
    "created": "创建时间",
    "changed": "变更时间",
    "has expired": "已过期",
    "any": "任何",
    "once": "一次",
    "always": "始终",
    # extensions
    "List all extensions, and why those do not run that do not.": "列出所有扩展；对没有运行的，说明原因。",
    "Say all that is known of one.": "显示一个的全部信息。",
    "Start it, now and from now on; also one installed just now.": ("立即并从此启动它；刚刚安装的也可以。"),
    "Stop it and those that need it, now and from now on.": "立即并从此停止它和需要它的扩展。",
    "Stop it and start it again, with those that need it.": "停止它再重新启动，连同需要它的扩展。",
    "{name} is switched on, now and from now on.": "{name} 已启用，从现在起一直有效。",
    "{name} is switched off, now and from now on.": "{name} 已停用，从现在起一直有效。",
    "{name} runs again.": "{name} 已重新运行。",
    "{name} does not run: {reason}": "{name} 没有运行：{reason}",
    # settings
    "List the settings of some namespaces, or all.": "列出某些命名空间或全部的设置。",
    "Print one value.": "打印一个值。",
    "Change one; the value is read as JSON where it is JSON.": "更改一个；值若是 JSON，就按 JSON 读取。",
    "Take your change back.": "撤销你的更改。",
    "Your value of {setting} no longer fits: {problem}.": "你为 {setting} 设置的值不再适用：{problem}。",
    "{setting} is {value} (from: {source}).": "{setting} 为 {value}（来源：{source}）。",
    "This counts from the server's next start on.": "服务器下次启动后生效。",
    "No server is running that {setting} could be asked of.": "没有正在运行的服务器可以查询或更改 {setting}。",
    "Run `allod serve` and try again beside it, or write it into config.toml.": (
        "请运行 `allod serve`，再另外重试；或写入 config.toml。"
    ),
    "{setting} is not the name of a setting.": "{setting} 不是设置的名称。",
    "Write it like server.port; `allod settings` lists all.": "请写成 server.port 这样；`allod settings` 列出全部。",
    "{namespace} has no setting {field}.": "{namespace} 没有设置 {field}。",
    "Did you mean {name}?": "你是指 {name} 吗？",
    "Did you mean `allod settings {name}`?": "你是指 `allod settings {name}` 吗？",
    "`allod settings {name}` lists them.": "`allod settings {name}` 列出它们。",
    # jobs and events
    "It will not, though: its manifest does not declare that host.": "但它不会访问：其清单没有声明该主机。",
    "List the jobs of the last 30 days, newest first.": "列出最近 30 天的任务，最新的在前。",
    "Put a job of an extension in line: EXTENSION KIND [NAME=VALUE]…": (
        "让扩展的一个任务排队：EXTENSION KIND [NAME=VALUE]…"
    ),
    "Stop working on it until it is resumed.": "停下来，直到恢复。",
    "Go on with a paused job, or try a failed or cancelled one again.": "继续暂停的任务，或重试失败或已取消的任务。",
    "End it.": "结束它。",
    "Show how far it is until it has ended; fails where it does.": "显示进度，直到结束；任务失败则命令失败。",
    "There is no job.": "没有任务。",
    "The job {job} is {state}.": "任务 {job} 的状态：{state}。",
    "The job failed: {reason}": "任务失败：{reason}",
    "The job was cancelled.": "任务已取消。",
    "To try it again: `allod jobs resume {job}`.": "重试：`allod jobs resume {job}`。",
    "It goes on when a server runs: `allod serve`, or `allod jobs watch {job}`, which waits for it.": (
        "它在有服务器运行时继续：`allod serve`，或 `allod jobs watch {job}`，后者会等它结束。"
    ),
    "The connection was lost; trying again …": "连接中断；正在重试……",
    "Connected again.": "已重新连接。",
    # keys, sessions
    (
        "What it may: chat, read, admin, or an extension's name for its routes; may be repeated. Default: chat."
    ): "它的权限：chat、read、admin，或扩展名（其全部路由）；可重复。默认：chat。",
    "Default: never.": "默认：永不。",
    "List all sessions that have not ended.": "列出所有未结束的会话。",
    "End a session, at once.": "立即结束一个会话。",
    "Ended the session {session}.": "已结束会话 {session}。",
    "No browser is let in. `allod open` opens one.": "没有获准进入的浏览器。`allod open` 打开一个。",
    "Print the file that leads in, and open no browser.": "打印用来进入的文件，不打开浏览器。",
    "Opened {url} in the browser.": "已在浏览器中打开 {url}。",
    "The file that leads in lies on the machine of {url}, not here.": "用来进入的文件在 {url} 所在的机器上，不在这里。",
    "Run `allod open` there, or open {url} and unlock it by the passphrase.": (
        "请在那里运行 `allod open`，或打开 {url} 并用口令解锁。"
    ),
    "There is no browser here that could be opened.": "这里没有可以打开的浏览器。",
    "`allod open --print` prints a file; open it in any browser of yours within a minute.": (
        "`allod open --print` 打印一个文件；请在一分钟内用你的任一浏览器打开它。"
    ),
    # egress
    "Show what has left or was refused, newest first.": ("显示发出或被拒绝的请求，最新的在前。"),
    "Let an extension reach a host.": "允许一个扩展访问一个主机。",
    "Take back what was allowed; what is under way by it ends.": "收回许可；依此进行中的传输随之结束。",
    "Cut everything off (on), or allow again what is allowed (off).": "切断一切（on），或恢复已允许的（off）。",
    "At most so many.": "最多这么多。",
    "Of this extension only.": "只限这个扩展。",
    "For this purpose only.": "只限这个用途。",
    "For one request only.": "只限一次请求。",
    "Nothing may reach the world. `allod egress allow EXTENSION HOST` allows it.": (
        "什么都不能访问外部。`allod egress allow EXTENSION HOST` 给予许可。"
    ),
    "Nothing has left, and nothing was refused.": "没有发出任何请求，也没有拒绝任何请求。",
    "{extension} may reach {host} (purpose: {purpose}).": "{extension} 可以访问 {host}（用途：{purpose}）。",
    "{extension} may reach {host} once (purpose: {purpose}).": "{extension} 可以访问 {host} 一次（用途：{purpose}）。",
    "{extension} may no longer reach {host}.": "{extension} 不能再访问 {host}。",
    "{extension} may no longer reach {host} for {purpose}.": "{extension} 不能再为 {purpose} 访问 {host}。",
    "Offline: nothing leaves, whatever is allowed.": "离线：什么都不发出，不论允许了什么。",
    "Online: what is allowed may leave, and nothing else.": "在线：只有允许的可以发出。",
    # vault
    "The store is locked.": "存储已锁定。",
    "The store is open.": "存储已打开。",
    "The store was open already.": "存储本来就是打开的。",
    "The store is locked, and no server is running in which it could be unlocked.": (
        "存储已锁定，而且没有正在运行、可供解锁的服务器。"
    ),
    "Run `allod serve`, and beside it `allod vault unlock`.": "请运行 `allod serve`，再另外运行 `allod vault unlock`。",
    (
        "Only this machine can open it: there is neither a passphrase nor a recovery code. "
        "`allod vault add recovery` makes one."
    ): "只有本机能打开它：既没有口令，也没有恢复码。`allod vault add recovery` 生成一个恢复码。",
    "List the locks: any one of them opens the store.": "列出各把锁：其中任何一把都能打开存储。",
    "Open the running server's store by passphrase or recovery code.": (
        "用口令或恢复码打开正在运行的服务器的存储。"
    ),
    "Add a lock: passphrase, recovery, keyring, keyfile or credential.": (
        "添加一把锁：passphrase、recovery、keyring、keyfile 或 credential。"
    ),
    "Take a lock away, at once; not the last one.": "立即移除一把锁；最后一把除外。",
    "Change the root key: everything is encrypted anew, all locks stay.": "更换根密钥：全部重新加密，所有的锁保留。",
    "Before the first start: make a store that only a passphrase opens.": (
        "在第一次启动之前：创建一个只能用口令打开的存储。"
    ),
    "Do not ask.": "不询问。",
    "Passphrase or recovery code: ": "口令或恢复码：",
    "New passphrase: ": "新口令：",
    "Once more: ": "再输一次：",
    "Nothing was given.": "什么都没有输入。",
    "Type it when asked, or pipe it in.": "请在询问时输入，或用管道输入。",
    "These were two different passphrases.": "两次输入的口令不同。",
    "Nothing was changed. Try again.": "没有任何改动。请重试。",
    "Nothing was changed.": "没有任何改动。",
    "Added the lock {slot}.": "已添加锁 {slot}。",
    "Removed the lock {slot}.": "已移除锁 {slot}。",
    "Print this recovery code and keep it where you keep papers. It is not shown again.": (
        "请打印这个恢复码，与重要文件放在一起。它不会再显示。"
    ),
    "Encrypt everything that is kept anew? Others wait meanwhile. [y/N]": (
        "重新加密保存的一切？其间其他请求须等待。[y/N]"
    ),
    "encrypting anew": "正在重新加密",
    "Everything is encrypted under a new key. All locks stay.": "一切已用新密钥加密。所有的锁保留。",
    "This data folder has a key already.": "这个数据文件夹已有密钥。",
    "`allod vault slots` lists its locks, `allod vault add passphrase` adds one.": (
        "`allod vault slots` 列出它的锁，`allod vault add passphrase` 添加一把。"
    ),
    "Made the key of {folder}. Each start waits for the passphrase.": "已创建 {folder} 的密钥。每次启动都等待口令。",
    (
        "Whoever forgets it loses everything: once a server runs, "
        "`allod vault add recovery` makes a code to be printed."
    ): "忘记口令就会失去一切：服务器运行后，用 `allod vault add recovery` 生成可打印的恢复码。",
    # backup, restore
    "Write over the file if it is there already.": "文件已存在时覆盖它。",
    "Choose another name, or write over it with --force.": "请换一个名字，或用 --force 覆盖。",
    "Wrote {path}, {size}.": "已写入 {path}，{size}。",
    (
        "Only this machine can open it: there is neither a passphrase nor a recovery code. "
        "`allod vault add recovery` makes one; then make a new backup."
    ): "只有本机能打开它：既没有口令，也没有恢复码。先用 `allod vault add recovery` 生成一个，再做一次备份。",
    "Restored what was kept at {time}.": "已恢复 {time} 时保存的内容。",
    "What was here before is in {folder}; nothing was deleted.": "原有内容在 {folder}；没有删除任何东西。",
    "Recovery code: ": "恢复码：",
    "Passphrase: ": "口令：",
    "This backup needs its passphrase or a recovery code.": "这个备份需要它的口令或恢复码。",
}
