"""From runs and predictions to what is handed in: pictures, tables, the folder itself."""
