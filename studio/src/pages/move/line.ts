// The lag of a follower as a line: the path of an SVG, without HTML.

export type LagPoint = {
  /** The begin of an interval of time, in seconds since 1970. */
  at: number;
  follower: string;
  seconds: number;
  last_seconds: number;
  wal_bytes: number | null;
  last_wal_bytes: number | null;
};
/** A value in an interval: the highest and the last. */
export type Reading = { at: number; follower: string; highest: number; last: number };
export type Frame = { from: number; until: number; interval: number; top: number; width: number; height: number };

export const secondsOf = (points: LagPoint[]): Reading[] =>
  points.map(({ at, follower, seconds, last_seconds }) => ({ at, follower, highest: seconds, last: last_seconds }));

/** Without the intervals in which there was no slot. */
export const walOf = (points: LagPoint[]): Reading[] =>
  points.flatMap(({ at, follower, wal_bytes, last_wal_bytes }) =>
    wal_bytes === null ? [] : [{ at, follower, highest: wal_bytes, last: last_wal_bytes ?? wal_bytes }],
  );

/**
 * Return the path of a line that rises to the highest value of each interval, and stays at its last one until the next.
 * It breaks between two followers: nothing is known of the time between. The last follower goes on until the end.
 */
export function linePath(readings: Reading[], frame: Frame): string {
  const { from, until, interval, top, width, height } = frame;
  const x = (at: number): string => round(((Math.min(at, until) - from) / Math.max(until - from, 1)) * width);
  const y = (value: number): string => round(height - (value / (top || 1)) * height);
  return readings
    .map((reading, index) => {
      const before = readings[index - 1];
      const after = readings[index + 1];
      const continues = before?.follower === reading.follower;
      const start = `${continues ? "H" : "M"}${x(reading.at)}${continues ? "V" : " "}${y(reading.highest)}`;
      const end = after === undefined ? until : after.follower === reading.follower ? after.at : reading.at + interval;
      const lasts = Math.min(reading.at + interval, end);
      return `${start}L${x(lasts)} ${y(reading.last)}H${x(end)}`;
    })
    .join("");
}

const round = (value: number): string => String(Math.round(value * 10) / 10);
