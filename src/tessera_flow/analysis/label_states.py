"""Name what can become of a label; the words of places are those of `products.reading.sample`."""

USED, NO_COORDINATES, OUTSIDE, NO_EMBEDDING = "ok", "no coordinates", "outside", "no embedding"
NO_VALUE, NO_PIXEL, TAKEN, CONFLICT = "no value", "no pixel", "pixel taken", "conflict"
STATES = (USED, NO_VALUE, NO_COORDINATES, OUTSIDE, NO_PIXEL, NO_EMBEDDING, TAKEN, CONFLICT)

MEANINGS = {
    USED: "used",
    NO_VALUE: "without a class or a finite number",
    NO_COORDINATES: "without coordinates or geometry",
    OUTSIDE: "outside the product",
    NO_PIXEL: "polygons without the centre of a pixel",
    NO_EMBEDDING: "only on pixels without an embedding",
    TAKEN: "only on pixels of an earlier label",
    CONFLICT: "only on pixels that have labels of different classes",
}
