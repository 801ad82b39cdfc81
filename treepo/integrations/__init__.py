"""Trees inside the trainers and formats of other libraries; each module needs the library that it is named after."""
