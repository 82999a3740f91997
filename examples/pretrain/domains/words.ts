// Word lists that several domains share. Small on purpose: a tiny model must meet every word often.

export const NAMES = [
  "Anna",
  "Ben",
  "Carla",
  "David",
  "Emma",
  "Felix",
  "Greta",
  "Hugo",
  "Iris",
  "Jonas",
  "Klara",
  "Leo",
  "Maria",
  "Noah",
  "Olga",
  "Paul",
  "Rosa",
  "Simon",
  "Tina",
  "Viktor",
] as const;

export const CITIES = [
  "Berlin",
  "Paris",
  "London",
  "Madrid",
  "Rome",
  "Vienna",
  "Oslo",
  "Prague",
  "Lisbon",
  "Dublin",
  "Geneva",
  "Athens",
  "Warsaw",
  "Milan",
  "Porto",
  "Bergen",
] as const;

export const COLOURS = ["red", "blue", "green", "black", "white", "yellow", "brown", "grey"] as const;

export const JOBS = [
  "baker",
  "teacher",
  "driver",
  "nurse",
  "farmer",
  "painter",
  "lawyer",
  "pilot",
  "cook",
  "singer",
  "clerk",
  "doctor",
] as const;

/** Singular and plural of things that can be counted. */
export const THINGS = [
  ["apple", "apples"],
  ["book", "books"],
  ["coin", "coins"],
  ["egg", "eggs"],
  ["pen", "pens"],
  ["shell", "shells"],
  ["stone", "stones"],
  ["ticket", "tickets"],
  ["cup", "cups"],
  ["lamp", "lamps"],
  ["ball", "balls"],
  ["card", "cards"],
] as const;

/** Words for string edits: short, common, lower case, all different. */
export const WORDS = [
  "ant",
  "bird",
  "cake",
  "dog",
  "ear",
  "fish",
  "goat",
  "hat",
  "ink",
  "jar",
  "key",
  "leaf",
  "moon",
  "nest",
  "oak",
  "pig",
  "quilt",
  "rain",
  "sun",
  "tree",
  "urn",
  "van",
  "wolf",
  "yarn",
  "zoo",
  "boat",
  "corn",
  "door",
  "frog",
  "gold",
  "hill",
  "iron",
  "king",
  "lake",
  "milk",
  "nut",
  "owl",
  "park",
  "rope",
  "salt",
  "town",
  "vine",
  "wind",
  "axe",
] as const;

export const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
] as const;

export const WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"] as const;

export const NUMBER_WORDS = [
  "zero",
  "one",
  "two",
  "three",
  "four",
  "five",
  "six",
  "seven",
  "eight",
  "nine",
  "ten",
  "eleven",
  "twelve",
] as const;

export function capitalise(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}
