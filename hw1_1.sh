#!/usr/bin/env bash
# Problem 1: the class of each listed image. Which checkpoint answers: see README, or set P1_CHECKPOINT.
# With EDITION=2021, 2022 or 2023: the class of every image in a folder, of that year's 50.
case "${EDITION:-}" in
    2021 | 2022 | 2023) usage="FOLDER_OF_IMAGES CSV_TO_WRITE" count=2 ;;
    *) usage="CSV_OF_IMAGES FOLDER_OF_IMAGES CSV_TO_WRITE" count=3 ;;
esac
if [ "$#" -ne "$count" ]; then
    echo "usage: bash hw1_1.sh $usage" >&2
    exit 2
fi
if [ "$count" -eq 2 ]; then
    set -- --images="$1" --output="$2"
else
    set -- --csv="$1" --images="$2" --output="$3"
fi
exec python3 "${0%hw1_1.sh}p1_inference.py" "$@"
