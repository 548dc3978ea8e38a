// Checked by test_build.py with `tsc --strict`: an error that is not expected is one, and the other way round.

import { connect, RequestError, type Info, type People, type Presence, type State } from "django-wsmux";

// As `manage.py websocketschema --format typescript` writes them.
interface Sends {
  say: { text: string; draft?: boolean };
  typing: {};
  leave: Record<string, never>;
  "room.rename": { name: string | null };
}
interface Receives {
  said: { id: number; text: string };
  joined: { user: string };
}
interface Replies {
  say: { id: number };
}

const room = connect<Sends, Receives, Replies>("/ws/room/lobby/", {
  at: "k3v9.h1-42",
  auth: async (refused: boolean) => (refused ? "token" : undefined),
  shared: true,
  onclose: ({ code, reason }) => console.log(code.toFixed(), reason.trim()),
});
connect("/", { at: { room: "k3v9.h1-42" }, persist: true });
connect("/", { auth: () => undefined });
// @ts-expect-error
connect("/", { at: 1 });
// @ts-expect-error
connect("/", { auto: true });
// @ts-expect-error
connect();

room.send({ type: "say", text: "hello" });
room.send({ type: "say", text: "hello", draft: true });
room.send({ type: "typing" });
room.send({ type: "room.rename", name: null });
room.send("text");
room.send(new Uint8Array(2));
const sent: boolean = room.send(new ArrayBuffer(2));
// @ts-expect-error
room.send({ type: "say" });
// @ts-expect-error
room.send({ type: "say", text: 1 });
// @ts-expect-error
room.send({ type: "say", txt: "hello" });
// @ts-expect-error
room.send({ type: "say", text: "hello", more: 1 });
// @ts-expect-error
room.send({ type: "shout", text: "hello" });
// @ts-expect-error
room.send({ text: "hello" });
// @ts-expect-error
room.send({ type: "room.rename", name: undefined });
// @ts-expect-error
room.send(1);

const off: () => void = room.on("said", (message, info) => {
  const text: string = message.text;
  const id: number = message.id;
  const type: "said" = message.type;
  const group: string | undefined = info.in;
  // @ts-expect-error
  message.txt;
  // @ts-expect-error
  const wrong: string = message.id;
  void [text, id, type, group, wrong];
});
// @ts-expect-error
room.on("sayd", () => undefined);
// @ts-expect-error
room.on("said", (message: number) => undefined);
room.on("message", (message, info: Info) => {
  if (message.type === "said") message.text.trim();
  if (message.type === "joined") message.user.trim();
  // @ts-expect-error
  message.text;
});
room.on("gap", (groups) => Object.entries(groups).map(([name, position]) => name + (position ?? "")));
room.on("open", () => undefined);
room.on("close", (event) => event.code.toFixed());
room.on("state", (state, detail) => {
  const name: State = state;
  const seconds: number | undefined = detail.after;
  // @ts-expect-error
  if (state === "opened") return;
  void [name, seconds, detail.attempts.toFixed()];
});
room.on("presence", ({ group, present, joined, left }) => {
  const people: { name: string }[] = Object.values({ ...present, ...joined, ...left });
  // @ts-expect-error
  present[group] = {};
  void people;
});
room.on("presence", (event: Presence<{ name: string }>) => {
  for (const person of Object.values(event.left)) person.name.trim();
  // @ts-expect-error
  event.present["1"]?.nom;
});
// @ts-expect-error
room.on("presence", ({ gone }) => gone);
const people: People | undefined = room.present.get("room.lobby");
// @ts-expect-error
room.present.set("room.lobby", {});
room.on("error", (error) => String(error));
// @ts-expect-error
room.on("close", (code: number) => undefined);

async function requests(): Promise<void> {
  const reply = await room.request("say", { text: "hello" }, { timeout: 1000, queue: true });
  const id: number = reply.id;
  // @ts-expect-error
  reply.text;
  const other: unknown = await room.request("typing");
  await room.request("typing", {}, { signal: AbortSignal.timeout(1000) });
  await room.request("leave");
  await room.request("room.rename", { name: "x" });
  // @ts-expect-error
  await room.request("say");
  // @ts-expect-error
  await room.request("say", {});
  // @ts-expect-error
  await room.request("say", { text: "hello", more: 1 });
  // @ts-expect-error
  await room.request("shout", { text: "hello" });
  // @ts-expect-error
  await room.request("say", { text: "hello" }, { timeout: "1s" });
  // @ts-expect-error
  (await room.request("typing")).id;
  void [id, other];
}
void requests().catch((error: unknown) => {
  if (error instanceof RequestError) {
    const code: "errors" | "timeout" | "disconnected" | "full" | "closed" = error.code;
    for (const [field, errors] of Object.entries(error.errors)) console.log(field, errors[0]?.message, code);
  }
});

// @ts-expect-error
room.state = "open";
const id: string | undefined = room.id;
room.close();
void [sent, off, id, people];

// Without interfaces, anything goes.
const any = connect("/");
any.send({ type: "x", y: [1] });
any.on("anything", (message, info) => [message.y, info.at]);
any.on("close", ({ code }) => code.toFixed());
// @ts-expect-error
any.on("close", ({ kode }) => kode);
void any.request("x", { y: 1 }).then((reply) => reply.z);
void any.request("x");
