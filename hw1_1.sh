#!/usr/bin/env bash
# Problem 1: the class of each listed image. Which checkpoint answers: see README, or set P1_CHECKPOINT.
if [ "$#" -ne 3 ]; then
    echo "usage: bash hw1_1.sh CSV_OF_IMAGES FOLDER_OF_IMAGES CSV_TO_WRITE" >&2
    exit 2
fi
exec python3 "${0%hw1_1.sh}p1_inference.py" --csv="$1" --images="$2" --output="$3"
