// SPDX-License-Identifier: LGPL-2.1-or-later
// A JSON value by json-c, with C++ ownership. A test reads like the document: reply["a"][0].text().
// A missing member is the null value; asking it for a text or a number throws std::runtime_error.
#ifndef TESTS_SUPPORT_JSON_H
#define TESTS_SUPPORT_JSON_H

#include <cstdint>
#include <string>
#include <vector>

struct json_object;

namespace support
{

class Json
{
  public:
    Json() = default; // null
    Json(const Json &other);
    Json(Json &&other) noexcept;
    Json &operator=(Json other) noexcept;
    ~Json();

    // Throws std::runtime_error, quoting the text, unless it is exactly one document.
    static Json parse(const std::string &text);

    bool is_null() const;
    bool is_array() const;
    bool is_object() const;
    bool has(const std::string &name) const;
    size_t size() const; // of an array or an object, else 0
    Json operator[](const std::string &name) const;
    Json operator[](const char *name) const;
    Json operator[](size_t index) const;
    Json
    operator[](int index) const // so that a literal 0 is not taken for a name
    {
        return (*this)[static_cast<size_t>(index)];
    }
    std::vector<Json> items() const;        // of an array
    std::vector<std::string> names() const; // of an object
    std::string text() const;
    int64_t number() const;
    bool boolean() const;
    std::string dump() const;

  private:
    explicit Json(json_object *owned) : object_(owned)
    {
    }
    static Json share(json_object *borrowed);

    json_object *object_ = nullptr;
};

// Quotes a text as a JSON string, for building documents.
std::string json_quote(const std::string &text);

} // namespace support

#endif
