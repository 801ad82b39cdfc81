"""Trees inside the trainers of other libraries; each of its packages needs the library that it is named after."""
