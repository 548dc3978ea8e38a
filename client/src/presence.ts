// Who is present in a group: the list, made of the frames about it.

import type { PresenceFrame } from "./protocol.ts";
import type { People } from "./types.ts";

/** Return some people. The object inherits nothing: "constructor" and "__proto__" may be keys of people. */
export function pick(people: People, isPicked: (key: string) => unknown): People {
  const picked: Record<string, unknown> = { __proto__: null };
  for (const key in people) if (isPicked(key)) picked[key] = people[key];
  return picked;
}

/** Return the list after a frame; undefined if the frame changes a list that is not here. */
export function after(people: People | undefined, { all, joined, left }: PresenceFrame): People | undefined {
  const present = all ?? people;
  return present && pick({ ...present, ...joined }, (key) => !left?.includes(key));
}
