"""Where things are in the arrays that compiled code is given, each of int64 unless it says otherwise."""

from __future__ import annotations

from typing import Final

# How far a walk has come
SIZE: Final = 0  # rows in the beam
MASK: Final = 1  # size of the table of rows that were met, less one
COLD: Final = 2  # rows must be waited for
UNREAD: Final = 3  # a full vector could not be read
LATE: Final = 4  # the deadline passed; from here on, what is reported
DISTANCES: Final = 5
ROWS_READ: Final = 6
COLD_ROWS: Final = 7  # of them, rows that were waited for
COARSE_NS: Final = 8
RESCORE_NS: Final = 9
STATE_FIELDS: Final = 10

# A key of a beam: a score and, in its low half, a row and two flags
EXPANDED: Final = 1
SCORED: Final = 2
ROW_SHIFT: Final = 2
MAX_ROWS: Final = 1 << 30

# What a graph is
CODES: Final = 0  # address of the codes
CODE_BYTES: Final = 1
OFFSETS: Final = 2  # address of each row's first link, int64
LINKS: Final = 3  # address of the links, int32, -1 after the last of a level
BASE_DEGREE: Final = 4  # links of a row on level 0
DEGREE: Final = 5  # and on each above
ENTRY: Final = 6
TOP_LEVEL: Final = 7
RANGES: Final = 8  # address of what codes of bytes stand for, float32, or 0
PLACES: Final = 9  # address of each row's place among those that are linked among themselves, int32
AMONG: Final = 10  # address of their links, int32, or 0
AMONG_DEGREE: Final = 11  # how many each has
GRAPH_FIELDS: Final = 12

# What a full tier is
MAPPING: Final = 0  # address of the file
BASES: Final = 1  # address of each row group's offset in it, int64
GROUP_SHIFT: Final = 2  # rows of a group, as a power of two
ROW_BYTES: Final = 3
DIM: Final = 4
HALF: Final = 5  # whether numbers are float16
NORMS: Final = 6  # address of one over each row's length, float32, or 0
DESCRIPTOR: Final = 7
COPIED: Final = 8  # whether rows are read to be scored, rather than mapped
FULL_FIELDS: Final = 9

# What a sketch is
RECORDS: Final = 0  # address of the first
RECORD_BYTES: Final = 1
WORDS: Final = 2  # of 64 bits in a plane
BITS: Final = 3  # of a dimension; 0 where there is no sketch
WIDTH_BEFORE: Final = 4  # dimensions before the tail
DIMS: Final = 5
SIGNS: Final = 6  # address of what each round multiplies by, float32
UNIT_LENGTH: Final = 7  # whether vectors are of unit length
SKETCH_DESCRIPTOR: Final = 8
FILE_SIZE: Final = 9
SKETCH_FIELDS: Final = 10

# What a search is: a graph, a full tier, a sketch, and what is asked of them
GRAPH_AT: Final = 0
FULL_AT: Final = GRAPH_AT + GRAPH_FIELDS
SKETCH_AT: Final = FULL_AT + FULL_FIELDS
K: Final = SKETCH_AT + SKETCH_FIELDS
EF: Final = K + 1
CANDIDATES: Final = K + 2
PATIENCE: Final = K + 3  # expansions after which a walk that finds nothing better ends; 0 for no such end
PREFIX_DIM: Final = K + 4
LIVE: Final = K + 5  # address of a bit a row in whole int32, lowest first, or 0 if all may be found
ROWS: Final = K + 6  # address of rows to score and no others, int32
ROWS_COUNT: Final = K + 7  # 0 to walk
SEEDS: Final = K + 8  # address of rows to begin a walk with besides the entry point, int64
SEEDS_COUNT: Final = K + 9
IS_COLD: Final = K + 10  # whether rows are asked for before they are scored, from the first on
WALK_BY: Final = K + 11  # deadline of the walk, on the clock of ``perf_counter_ns``; 0 for none
DONE_BY: Final = K + 12  # and of the whole
PLACE: Final = K + 13  # which of the best that a walk finds tells how near the rows are, from 1; 0 for none
SEARCH_FIELDS: Final = K + 14
# and of one that is prepared, where deadlines count from when the call came in
TIMED: Final = K + 14  # whether there are deadlines
UNIT: Final = K + 15  # whether queries are scaled to unit length
IDS: Final = K + 16  # address of each row's id, int64, or 0 where ids are texts
FIRST: Final = K + 17  # address of row 0 in the snapshot
ENOUGH: Final = K + 18  # rows to read, unless a deadline comes first
DIRECTIONS: Final = K + 19  # address of those whose components make prefixes, float32, or 0
NEAR_EF: Final = K + 20  # beam, and rows, that tell how many of those near the query may be found
NEAR_ROWS: Final = K + 21
REALS: Final = K + 22  # address of float64 numbers, named below
FILES: Final = K + 23  # of three files, descriptor and least size
PREPARED_FIELDS: Final = K + 29

# Numbers of a search, float64
FEW: Final = 0  # how many of the best k may be expected among candidates not rescored; 0 rescores all
LEAST: Final = 1  # prefix score below which a walk's answer is none, and rows are not read
SEARCH_REALS: Final = 2
# and of one that is prepared
SAFE_LOW: Final = 2  # squares of lengths between these are safe to divide by
SAFE_HIGH: Final = 3
LEAST_NEAR: Final = 4  # share of rows near the query that must be among those that may be found, or 0
MOST_MISSED: Final = 5  # what may be expected to be missed
LEAST_FAR: Final = 6  # share of rows near the query below which it is far fewer
PREPARED_REALS: Final = 7

# What is said of an answer, float64
MARGIN: Final = 0
MISSED: Final = 1
NEARNESS: Final = 2
SAID: Final = 3
TOLD_LATE: Final = SAID  # from here on, what the walk reports
TOLD: Final = SAID + STATE_FIELDS - LATE
TOOK: Final = slice(TOLD_LATE + 1, TOLD)  # of it, what adds up over two walks

# Room to work in: addresses, and sizes
BEAM: Final = 0
TABLE: Final = 1
RECENT: Final = 2
SUMS: Final = 3
STATE: Final = 4
QUERY: Final = 5
PREFIX: Final = 6  # as many as QUERY
ORDER: Final = 7
BEAM_SIZE: Final = 8
TABLE_SIZE: Final = 9
RECENT_SIZE: Final = 10
SUMS_SIZE: Final = 11
QUERY_SIZE: Final = 12
ORDER_SIZE: Final = 13
ROOM_FIELDS: Final = 14

MIN_TABLE: Final = 4096
MET_PER_EF: Final = 64
"""Places of the table for each row of the beam. A row that loses its place to another is scored again when
it is met again: at ef=64, 2.8 of a hundred rows, with twice as many places 1.5; both took as long."""

MET_AMONG: Final = 8  # times as many where rows that may not be found are met too

WINDOW: Final = 16
"""Rows that stand for what would be rescored next. 8 and 32 did as well or worse at recall 0.95."""

SUMS_KEPT: Final = 5  # of prefix scores, full scores, and their products

# Instead of how many rows were found, besides what the package names
GROW: Final = -1  # the room is too small
TOO_FAR: Final = -9  # the best that were found are not near enough
FAILED: Final = -(1 << 63)  # the code ended with an error
