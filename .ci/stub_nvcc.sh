#!/usr/bin/env bash
# A CUDA compiler that only pretends: it states its version and leaves empty outputs, which is
# all that type-checking the CUDA variant needs on a machine without a toolkit.
output='' directory='' source='' ptx='' previous=''
for argument in "$@"; do
  case $previous in
    -o) output=$argument ;;
    --output-directory) directory=$argument ;;
  esac
  case $argument in
    --version)
      printf 'nvcc: pretended\n\n\nCuda compilation tools, release 13.0, V13.0.88\n'
      exit 0
      ;;
    --ptx) ptx=yes ;;
    *.cu) source=$argument ;;
  esac
  previous=$argument
done
if [ -n "$ptx" ] && [ -z "$output" ]; then
  output=$directory/$(basename "${source%.cu}").ptx
fi
if [ -n "$output" ]; then
  : >"$output"
fi
