"""Filters: conditions on the columns of rows, as a dict or as a pyarrow expression.

::

    {"category": "cs.CV", "month": {"$gte": 202501, "$lt": 202507}}
    {"$or": [{"tags": {"$contains": "draft"}}, {"owner": {"$in": ["ann", "bob"]}}]}
    pyarrow.compute.field("month") >= 202501

A dict holds for the rows for which all of its entries do; ``{}`` for all rows. An entry is a column with a
value, which it must equal, or with operators, all of which must hold; or one of ``$and``, ``$or`` (lists of
filters) and ``$not`` (a filter). The column ``id`` may be named, the vector may not.

=============================  ==================================================================
``$eq`` ``$ne``                equal to a value, or not
``$gt`` ``$gte`` ``$lt``       greater, greater or equal, less, less or equal; not of booleans
``$lte``
``$in`` ``$nin``               equal to one of a list of values, or to none
``$contains``                  a list that has this element; a string that has this part
``$exists``                    with True, not null; with False, null
``$not``                       operators that must not all hold
=============================  ==================================================================

A condition holds or does not; nothing is in between. On a null it does not, but for equality with ``None``,
``$ne``, ``$nin``, ``$not`` and ``{"$exists": False}``: ``$ne``, ``$nin`` and ``$not`` hold for exactly the
rows for which ``$eq``, ``$in`` and what is inside ``$not`` do not, nulls among them. ``{"a": None}`` holds
for the nulls. NaN equals nothing and is neither greater nor less. A null in a list is contained if None is
asked for.

Values are compared as Python compares them, without rounding: 3.5 equals no integer and lies between 3 and 4,
and the float 0.1 equals no number of a float32 column. Dates and times are given as such, or as ISO 8601
strings; with a time zone if the column has one, and without if not. Booleans are no numbers. A filter with an
unknown column, an unknown operator or a value that its column cannot hold is a FilterError before any row is
looked at, and so is one whose dicts and lists are nested more than 200 deep. As long as an index has no
columns, because it never held a row, the names and values are not checked: nothing matches.

A pyarrow expression holds for the rows for which it is true; null is not true. It names its columns: one by
its place, as in ``field(1)``, is a FilterError. It may stand inside ``$and``, ``$or`` and ``$not``.

``parse`` makes nodes of either form (``nodes``), of values what their column can hold (``values``), and
``columns`` looks for them in Arrow arrays.
"""
