// Messages of a channel as Slack's app shows them: each one that begins a thread, with its replies.

/** Groups messages, oldest first. A reply whose first message is not shown any more stands for itself. */
export function threads(messages) {
  const roots = new Map();
  for (const message of messages) {
    const root = message.thread_ts && message.thread_ts !== message.ts ? roots.get(message.thread_ts) : undefined;
    if (root) root.replies.push(message);
    else roots.set(message.ts, { ...message, replies: [] });
  }
  return [...roots.values()];
}
