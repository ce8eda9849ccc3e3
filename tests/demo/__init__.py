"""`./build.sh demo`: the main job on real input, told as a short story."""
